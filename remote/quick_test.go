package remote

import (
	"sync"
	"testing"
)

// A quick key exchange is for those alone who have no say in it, and by whose connection nothing travels.
func TestQuick(t *testing.T) {
	const usual = "echo kexalgorithms slow,curve25519-sha256,old; exit"
	for _, c := range []struct {
		name, config string
		quick        bool
	}{
		{"as it comes", "", true},
		{"locale", "echo sendenv LANG; echo sendenv LC_*", true},
		{"another order", "echo kexalgorithms slow,old,curve25519-sha256; exit", false},
		{"only some", "echo kexalgorithms slow; exit", false},
		{"environment", "echo sendenv TOKEN", false},
		{"settings", "echo setenv TOKEN=1", false},
		{"delegation", "echo gssapidelegatecredentials yes", false},
		{"an old ssh", "exit 255", false},
	} {
		opt := fakeSSH(t, "sh", `case $* in -G*/dev/null*) `+usual+`;; -G*ControlPath=none*db2*) `+c.config+"\n"+usual+`;;
			*KexAlgorithms=curve25519-sha256,slow,old*db2*) exit 7;; *KexAlgorithms*|-G*) exit 9;; esac`)
		err := Knock(within(t), "db2", opt)
		if c.quick {
			mustFail(t, err, Unexpected, "status 7")
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// Who is asked for a password sends it.
	opt := fakeSSH(t, "sh", `case $* in -G*) `+usual+`;; *BatchMode=yes*) echo "Permission denied (password)." >&2; exit 255;; *KexAlgorithms*) exit 9;; esac`)
	opt.Terminal = &sync.Mutex{}
	if err := Knock(within(t), "db2", opt); err != nil {
		t.Error(err)
	}
}

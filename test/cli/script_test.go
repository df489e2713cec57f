package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"espalier/internal/netns"
	"espalier/test/lab"
)

// key is the one that scripts find in $KEY. No output of any command may hold it.
const key = "4b1f0c83d2a7965e4b1f0c83d2a7965e4b1f0c83d2a7965e4b1f0c83d2a7965edeadbeef"

// TestScripts runs testdata/*.txtar, each in a network namespace of its own.
func TestScripts(t *testing.T) {
	lab.Root(t)
	binary := lab.Binary(t)
	// Commands under another user must find the binary.
	if err := os.Chmod(filepath.Dir(binary), 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			ns, err := netns.New()
			if err != nil {
				return err
			}
			env.Defer(func() { ns.Close() })
			env.Values[namespace{}] = ns
			env.Setenv("KEY", key)
			env.Setenv("ESPALIER_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			env.Setenv("PATH", filepath.Dir(binary)+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("GORACE", lab.RaceOptions)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"run":    func(ts *testscript.TestScript, neg bool, args []string) { run(ts, neg, args, nil) },
			"nobody": func(ts *testscript.TestScript, neg bool, args []string) { run(ts, neg, args, nobody) },
			"json":   checkJSON,
		},
	})
}

type namespace struct{} // key of the script's network namespace

// nobody is a user without any privilege.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

// run is the script command `run CODE PROGRAM ARGS…`: the program runs in the script's
// namespace, has to end with CODE, and may not print the key.
func run(ts *testscript.TestScript, neg bool, args []string, user *syscall.Credential) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: run CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	path, err := exec.LookPath(args[1])
	if args[1] == "espalier" {
		path, err = filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], "espalier"), nil
	}
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "GORACE=" + ts.Getenv("GORACE"), "TMPDIR=" + ts.Getenv("TMPDIR"), "ESPALIER_SAD=" + ts.Getenv("ESPALIER_SAD")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: user}
	if user != nil {
		cmd.Dir = "/"
	}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	ts.Check(ts.Value(namespace{}).(*netns.NS).Start(cmd))
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		ts.Check(err)
	}
	ts.Stdout().Write(out.Bytes())
	ts.Stderr().Write(errOut.Bytes())
	if holdsKey(out.String() + errOut.String()) {
		ts.Fatalf("the output holds the key:\n%s%s", out.String(), errOut.String())
	}
	if code := cmd.ProcessState.ExitCode(); code != want {
		ts.Fatalf("exit code %d, want %d\n%s%s", code, want, out.String(), errOut.String())
	}
}

// holdsKey looks for any 8 bytes of the key, in hexadecimal or as they are.
func holdsKey(output string) bool {
	lower := strings.ToLower(output)
	for i := 0; i+16 <= len(key); i += 2 {
		raw := make([]byte, 8)
		for k := range raw {
			b, _ := strconv.ParseUint(key[i+2*k:i+2*k+2], 16, 8)
			raw[k] = byte(b)
		}
		if strings.Contains(lower, key[i:i+16]) || strings.Contains(output, string(raw)) {
			return true
		}
	}
	return false
}

var schemaName = regexp.MustCompile(`^espalier/[a-z-]+/v1$`)

// checkJSON is the script command `json OK FILE [LINES]`: each line of the file, or all of it
// if LINES is one, is a JSON object with a schema, and ok is OK.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: json true|false FILE [OBJECTS]")
	}
	objects := 1
	if len(args) == 3 {
		var err error
		objects, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	d := json.NewDecoder(strings.NewReader(ts.ReadFile(args[1])))
	for i := range objects {
		var o map[string]any
		if err := d.Decode(&o); err != nil {
			ts.Fatalf("object %d of %d: %v", i+1, objects, err)
		}
		schema, _ := o["schema"].(string)
		ok, isBool := o["ok"].(bool)
		if !schemaName.MatchString(schema) || !isBool || strconv.FormatBool(ok) != args[0] {
			ts.Fatalf("object %d: schema %q, ok %v", i+1, o["schema"], o["ok"])
		}
	}
	if d.More() {
		ts.Fatalf("more than %d objects", objects)
	}
}

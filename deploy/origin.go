package deploy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
)

// machineID is the file in which a host has a number of its own (machine-id(5)).
const machineID = "/etc/machine-id"

// Origin is what hosts know a file by: this host, by its name and by a number of its own, and where the file
// is here. Two hosts of one name do not take each other's files for theirs.
func Origin(path string) (string, error) {
	here, err := os.Hostname()
	if err != nil {
		return "", err
	}
	whole, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	id, _ := os.ReadFile(machineID) // not all hosts have one
	return originOf(here, string(id), whole), nil
}

// originOf is readable for people, as "db1#0b5ad3c8:/etc/tunnels.yaml". The machine ID itself is not for
// other hosts (machine-id(5)): of 32 bits of its HMAC nobody can tell it.
func originOf(hostname, id, path string) string {
	id = strings.TrimSpace(id)
	if raw, err := hex.DecodeString(id); err == nil && len(raw) == 16 {
		mac := hmac.New(sha256.New, raw)
		mac.Write([]byte("espalier tunnels"))
		hostname += "#" + hex.EncodeToString(mac.Sum(nil)[:4])
	}
	return hostname + ":" + path
}

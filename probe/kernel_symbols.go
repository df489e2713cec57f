package probe

import (
	"bufio"
	"bytes"
	"errors"
	"io/fs"
)

// symbols are functions that the running kernel has, built in or loaded: /proc/kallsyms. Names are
// there for everyone, addresses for root alone.
type symbols struct {
	has map[string]bool // of those that were asked for
	err error           // why nothing can be told
}

// readSymbols looks for the names asked for.
func readSymbols(root fs.FS, names map[string]bool) symbols {
	f, err := root.Open("proc/kallsyms")
	if err != nil {
		return symbols{err: reason(err)}
	}
	defer f.Close()
	has := make(map[string]bool)
	in := bufio.NewReaderSize(f, 1<<16)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return symbols{err: errors.New("this is no list of symbols")}
		}
		if name := symbolName(line); names[string(name)] { // some 200000 lines: nothing is allocated for each
			has[string(name)] = true
		}
		if err != nil {
			break
		}
	}
	// Without KALLSYMS_ALL data is missing, functions never are. A kernel has tens of thousands.
	if !has[witness] {
		return symbols{err: errors.New("the list of symbols is not complete")}
	}
	return symbols{has: has}
}

// witness is a function that each kernel with IP has.
const witness = "ip_rcv"

// symbolName takes the name from "ffffffff81ac59a0 t seqiv_aead_create\t[seqiv]"; nil if there is none.
func symbolName(line []byte) []byte {
	at := bytes.IndexByte(line, ' ')
	if at < 0 || len(line) < at+4 || line[at+2] != ' ' {
		return nil
	}
	name := line[at+3:]
	if end := bytes.IndexAny(name, "\t\n"); end >= 0 {
		name = name[:end]
	}
	return name
}

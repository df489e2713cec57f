package vmlab

import (
	"net"
	"net/rpc"
	"path/filepath"

	"espalier/test/vmlab/guest"
)

// controlSocket is where the VM's control port ends, in the suite's directory.
const controlSocket = "control.sock"

// answer serves what the VM calls, until stop.
func answer(dir string, outside any) (stop func(), err error) {
	server := rpc.NewServer()
	if err := server.RegisterName(guest.OutsideService, outside); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", filepath.Join(dir, controlSocket))
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := listener.Accept(); err == nil {
			server.ServeConn(conn) // until QEMU is gone
		}
	}()
	return func() {
		listener.Close()
		<-done
	}, nil
}

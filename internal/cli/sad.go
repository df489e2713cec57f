package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"syscall"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// engine is a SAD and SPD that takes NETLINK_XFRM messages: the kernel or a userspace
// device. *client.Client is one.
type engine interface {
	AddState(context.Context, *xfrm.State) error
	UpdateState(context.Context, *xfrm.State) error
	DeleteState(context.Context, xfrm.StateID) error
	GetState(context.Context, xfrm.StateID) (*xfrm.State, error)
	States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error]
	AllocateSPI(context.Context, *xfrm.SPIRange) (*xfrm.State, error)
	FlushStates(ctx context.Context, proto uint8) error
	SADInfo(context.Context) (xfrm.SADInfo, error)

	AddPolicy(context.Context, *xfrm.Policy) error
	UpdatePolicy(context.Context, *xfrm.Policy) error
	DeletePolicy(context.Context, xfrm.PolicyID) error
	GetPolicy(context.Context, xfrm.PolicyID) (*xfrm.Policy, error)
	Policies(context.Context) iter.Seq2[*xfrm.Policy, error]
	FlushPolicies(context.Context, xfrm.PolicyType) error
	SPDInfo(context.Context) (xfrm.SPDInfo, error)
	SetThresholds(context.Context, xfrm.Thresholds) error
	Defaults(context.Context) (*xfrm.Defaults, error)
	SetDefaults(context.Context, xfrm.Defaults) error

	Listen(ctx context.Context, groups ...uint32) iter.Seq2[xfrm.Event, error]

	Close() error
}

// sadChoice names an engine and says why it was chosen.
type sadChoice struct {
	socket string // of a userspace device; empty: the kernel
	why    string
}

// name is "kernel" or "unix:PATH".
func (c sadChoice) name() string {
	if c.socket == "" {
		return "kernel"
	}
	return "unix:" + c.socket
}

func (c sadChoice) String() string { return fmt.Sprintf("%s (%s)", c.name(), c.why) }

func (c sadChoice) open() (engine, error) {
	if c.socket == "" {
		return client.Kernel()
	}
	e, err := client.Dial(c.socket)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: start it again, or take away what it left with `espalier dataplane --release`", err)
	}
	return e, err
}

// chooseSAD follows --sad, else ESPALIER_SAD, else the rules of auto: the socket of a device
// that the commands name, else the only socket in dir, else the kernel.
func chooseSAD(flag, env, dir string, devices []string) (sadChoice, error) {
	value, why := flag, "--sad"
	if value == "" {
		value, why = env, "ESPALIER_SAD"
	}
	path, isUnix := strings.CutPrefix(value, "unix:")
	switch {
	case value == "kernel":
		return sadChoice{why: why}, nil
	case isUnix && path != "":
		return sadChoice{path, why}, nil
	case value != "" && value != "auto":
		return sadChoice{}, &exitError{exitXfrmSyntax, fmt.Errorf("%s %q: kernel, unix:PATH or auto goes here", why, value)}
	}
	sockets, err := client.DeviceSockets(dir)
	if err != nil {
		return sadChoice{}, &exitError{exitXfrmSemantic, err}
	}
	named := sadChoice{}
	for _, device := range devices {
		socket, ok := sockets[device]
		if ok && named.socket != "" && named.socket != socket {
			return sadChoice{}, &exitError{exitXfrmSemantic,
				errors.New("the commands name several devices with sockets of their own: choose one with --sad unix:PATH")}
		}
		if ok {
			named = sadChoice{socket, "the socket of " + device}
		}
	}
	if named.socket != "" {
		return named, nil
	}
	switch len(sockets) {
	case 0:
		return sadChoice{why: "no device has a socket in this network namespace"}, nil
	case 1:
		for device, socket := range sockets {
			return sadChoice{socket, device + " is the only device of this network namespace"}, nil
		}
	}
	return sadChoice{}, &exitError{exitXfrmSemantic,
		fmt.Errorf("%s holds the sockets of %d devices: choose one with --sad unix:PATH, or --sad kernel", dir, len(sockets))}
}

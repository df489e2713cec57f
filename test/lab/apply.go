package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"espalier/internal/netns"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// Apply runs the commands of a script, those that add, update, delete and flush, by a client of its
// own: as `espalier xfrm -batch` does, without a process. ns is where the script's devices are.
func Apply(c *client.Client, ns *netns.NS, script string) error {
	lines, err := xfrm.ParseScript(strings.NewReader(script))
	if err != nil {
		return err
	}
	env := xfrm.Env{Interface: func(name string) (index int, err error) {
		err = ns.Do(func() error {
			dev, err := net.InterfaceByName(name)
			if err == nil {
				index = dev.Index
			}
			return err
		})
		return index, err
	}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, line := range lines {
		cmd, err := xfrm.Parse(line.Words, env)
		if err == nil {
			err = apply(ctx, c, cmd)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", line.Number, err)
		}
	}
	return nil
}

func apply(ctx context.Context, c *client.Client, cmd *xfrm.Command) error {
	switch {
	case cmd.Object == xfrm.ObjectState && cmd.Verb == xfrm.VerbAdd:
		return c.AddState(ctx, cmd.State)
	case cmd.Object == xfrm.ObjectState && cmd.Verb == xfrm.VerbUpdate:
		return c.UpdateState(ctx, cmd.State)
	case cmd.Object == xfrm.ObjectState && cmd.Verb == xfrm.VerbDelete:
		return c.DeleteState(ctx, *cmd.StateID)
	case cmd.Object == xfrm.ObjectState && cmd.Verb == xfrm.VerbFlush:
		return c.FlushStates(ctx, cmd.FlushProto)
	case cmd.Object == xfrm.ObjectPolicy && cmd.Verb == xfrm.VerbAdd:
		return c.AddPolicy(ctx, cmd.Policy)
	case cmd.Object == xfrm.ObjectPolicy && cmd.Verb == xfrm.VerbUpdate:
		return c.UpdatePolicy(ctx, cmd.Policy)
	case cmd.Object == xfrm.ObjectPolicy && cmd.Verb == xfrm.VerbDelete:
		return c.DeletePolicy(ctx, *cmd.PolicyID)
	case cmd.Object == xfrm.ObjectPolicy && cmd.Verb == xfrm.VerbFlush:
		return c.FlushPolicies(ctx, cmd.FlushType)
	}
	return fmt.Errorf("%s %s is not for scripts of tests", cmd.Object, cmd.Verb)
}

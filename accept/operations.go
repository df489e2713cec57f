package accept

import "espalier/remote"

// Operations are those of a host that is tried; names of commands are added by the caller.
func Operations(run RunCommand) remote.Operations {
	return remote.Operations{
		"accept-links":   remote.JSON(links),
		"accept-tools":   remote.JSON(tools),
		"accept-hold":    hold(run),
		"accept-receive": remote.JSON(receive),
		"accept-send":    remote.JSON(send),
		"accept-flap":    remote.JSON(flap),
	}
}

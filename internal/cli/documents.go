package cli

import (
	"github.com/spf13/cobra"

	"espalier/accept"
	"espalier/demo"
)

// Root is the tree of commands, for those who write documentation from it.
func Root() *cobra.Command { return newRootCommand() }

// Schemas are the types of what `-o json` prints, by the name that stands in "schema". Where
// there are several, an object is one of them.
func Schemas() map[string][]any {
	return map[string][]any{
		accept.Schema:              {accept.Report{}, failure{}},
		"espalier/demo/v1":         {demo.Report{}, failure{}},
		"espalier/doctor/v1":       {doctorView{}, failure{}},
		"espalier/status/v1":       {statusView{}, failure{}},
		"espalier/explain/v1":      {explainView{}, failure{}},
		"espalier/doctor-hosts/v1": {doctorHostsView{}},
		"espalier/xfrm-state/v1":   {stateList{}, result{}, dryRun{}, failure{}},
		"espalier/xfrm-policy/v1":  {policyList{}, defaultsView{}, result{}, dryRun{}, failure{}},
		"espalier/xfrm-monitor/v1": {eventView{}, dryRun{}, failure{}},
		"espalier/xfrm-drops/v1":   {dropsView{}},
		"espalier/xfrm/v1":         {failure{}},
		"espalier/plan/v1":         {planView{}, failure{}},
		"espalier/apply/v1":        {changeView{}, failure{}},
		"espalier/rotate/v1":       {changeView{}, failure{}},
		"espalier/rotate-due/v1":   {rotationsView{}, failure{}},
		"espalier/down/v1":         {changeView{}, failure{}},
		"espalier/pair/v1":         {changeView{}, failure{}},
		"espalier/lint/v1":         {lintView{}, failure{}},
		"espalier/import/v1":       {importView{}, failure{}},
		"espalier/verify/v1":       {verifyView{}, failure{}},
		"espalier/config/v1":       {configView{}, failure{}},
	}
}

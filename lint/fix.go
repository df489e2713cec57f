package lint

import (
	"cmp"
	"slices"
	"strings"

	"espalier/xfrm/script"
)

// edit puts a text in the place of a part of a script.
type edit struct {
	script     *script.Script
	start, end int
	text       string
}

// Fixed are scripts in which what could be decided is put right. Their texts hold keys, partly new ones.
type Fixed struct {
	Scripts []Source // as they were given, with new texts, for their owner alone to read
	After   *Report  // of them
	Mended  []Finding
	Left    []Left
}

// Left is a finding of the fixed scripts that is for people to decide.
type Left struct {
	Finding
	Why string `json:"why"`
}

// rounds: what was put right may bring out what was hidden behind it, such as the missing fwd policy behind the
// missing in policy.
const rounds = 4

// Fix corrects the scripts. What is in doubt is left as it was.
func (r *Report) Fix() (*Fixed, error) {
	now := r
	for range rounds {
		sources := slices.Clone(now.sources)
		changed := false
		for i, s := range now.scripts {
			text := rewrite(s, now.edits(s))
			changed = changed || text != s.Text
			sources[i].Text = text
			if sources[i].Mode != 0 {
				sources[i].Mode = 0o600
			}
		}
		next, err := Scripts(sources, r.options)
		if err != nil {
			return nil, err
		}
		now = next
		if !changed {
			break
		}
	}
	f := &Fixed{Scripts: now.sources, After: now}
	remains := map[string]int{}
	for _, left := range now.Findings {
		remains[left.identity()]++
		why := "more than one thing could be meant"
		if left.mend != nil {
			if _, reason := left.mend(); reason != "" {
				why = reason
			}
		}
		f.Left = append(f.Left, Left{left, why})
	}
	for _, was := range r.Findings {
		if id := was.identity(); remains[id] > 0 {
			remains[id]--
		} else {
			f.Mended = append(f.Mended, was)
		}
	}
	return f, nil
}

// identity knows a finding again, although its line may have moved.
func (f *Finding) identity() string { return string(f.ID) + "\x00" + f.File + "\x00" + f.About }

// edits are those of all findings for one script, in the order of its text, none within another.
func (r *Report) edits(s *script.Script) (edits []edit) {
	for i := range r.Findings {
		if r.Findings[i].mend == nil {
			continue
		}
		all, why := r.Findings[i].mend()
		if why != "" {
			continue
		}
		for _, e := range all {
			if e.script == s && !slices.Contains(edits, e) {
				edits = append(edits, e)
			}
		}
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	end := 0
	return slices.DeleteFunc(edits, func(e edit) bool {
		if e.start < end {
			return true
		}
		end = e.end
		return false
	})
}

func rewrite(s *script.Script, edits []edit) string {
	var b strings.Builder
	at := 0
	for _, e := range edits {
		b.WriteString(s.Text[at:e.start] + e.text)
		at = e.end
	}
	b.WriteString(s.Text[at:])
	return b.String()
}

// mended is for what needs no edit: the fixed script is a new file for its owner alone.
func mended() ([]edit, string) { return nil, "" }

func undecided(why string) func() ([]edit, string) {
	return func() ([]edit, string) { return nil, why }
}

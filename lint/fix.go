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
		next, changed, err := now.mendAll(func(*Finding) bool { return true })
		if err == nil && next.broken() > now.broken() {
			next, changed, err = now.mendOneByOne()
		}
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

// mendAll makes the edits of some findings, and looks at what comes of them.
func (r *Report) mendAll(which func(*Finding) bool) (next *Report, changed bool, err error) {
	sources := slices.Clone(r.sources)
	for i, s := range r.scripts {
		text := rewrite(s, r.edits(s, which))
		changed = changed || text != s.Text
		sources[i].Text = text
		if sources[i].Mode != 0 {
			sources[i].Mode = 0o600
		}
	}
	next, err = Scripts(sources, r.options)
	return next, changed, err
}

// broken are the lines that nobody understands, or that ip refuses: no edit may add to them.
func (r *Report) broken() (n int) {
	for _, f := range r.Findings {
		if f.ID == BadCommand || f.ID == NotUnderstood || f.ID == AddedTwice {
			n++
		}
	}
	return n
}

// mendOneByOne leaves out the edits that break a line, for its words stand in a way that was not foreseen.
func (r *Report) mendOneByOne() (now *Report, changed bool, err error) {
	now = r
	tried := map[string]bool{}
	for i := 0; i < len(now.Findings); i++ {
		id := now.Findings[i].identity()
		if tried[id] {
			continue
		}
		tried[id] = true
		next, done, err := now.mendAll(func(f *Finding) bool { return f.identity() == id })
		if err != nil {
			return nil, false, err
		}
		if done && next.broken() <= now.broken() {
			now, changed, i = next, true, -1
		}
	}
	return now, changed, nil
}

// identity knows a finding again, although its line may have moved.
func (f *Finding) identity() string { return string(f.ID) + "\x00" + f.File + "\x00" + f.About }

// edits are those of some findings for one script, in the order of its text, none within another.
func (r *Report) edits(s *script.Script, which func(*Finding) bool) (edits []edit) {
	for i := range r.Findings {
		if r.Findings[i].mend == nil || !which(&r.Findings[i]) {
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

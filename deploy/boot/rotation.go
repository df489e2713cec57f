package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Rotation is a file of tunnels whose SAs this host, as the coordinator, has to replace in time.
type Rotation struct {
	File      string        `json:"file"`                // absolute
	Arguments []string      `json:"arguments,omitempty"` // of `espalier rotate`: how hosts are reached
	Period    time.Duration `json:"period"`              // how often to look whether it is due; nanoseconds
}

// Pace is how fast an SA uses itself up.
type Pace struct {
	Every         time.Duration // it is to be replaced after; 0: never by time
	Share         float64       // of its sequence numbers, 0 to 1; it is to be replaced then. 0: never by number
	ESN           bool          // it has 2^64 sequence numbers, else 2^32
	BitsPerSecond uint64        // of its device; 0: not known, taken for 100 Gb/s
}

const (
	unknownRate = 100e9
	// fullFrame is what a packet of 1500 bytes takes of an Ethernet link, in bits, with preamble and gap.
	fullFrame = 8 * 1538

	leastPeriod = 10 * time.Second
	mostPeriod  = time.Hour
)

// Period is how often to look whether SAs are due so that none is used up between two looks: at line
// rate, in full frames, what is left of the sequence numbers when they are due lasts twice as long, and so
// does half of the time they are used for. It is from 10 s to an hour; 0: nothing is ever due.
func Period(paces []Pace) time.Duration {
	least := math.Inf(1)
	for _, p := range paces {
		if p.Every > 0 {
			least = min(least, p.Every.Seconds()/8)
		}
		if p.Share <= 0 {
			continue
		}
		numbers, rate := math.Exp2(32), float64(p.BitsPerSecond)
		if p.ESN {
			numbers = math.Exp2(64)
		}
		if rate == 0 {
			rate = unknownRate
		}
		left := numbers * min(p.Share, 1-p.Share) / (rate / fullFrame)
		least = min(least, left/2)
	}
	if math.IsInf(least, 1) {
		return 0
	}
	seconds := min(max(least, leastPeriod.Seconds()), mostPeriod.Seconds())
	return time.Duration(seconds) * time.Second
}

const rotationsFile = "rotations.json"

// SetRotation has `espalier rotate --due` run at the shortest period of all rotations, by a timer. A
// rotation of the same file is replaced. It fails, with nothing changed, at a place that has no units.
func (p *Place) SetRotation(r Rotation) error {
	switch {
	case p.Units == "":
		return errors.New("no rotation timer: " + p.Why)
	case !filepath.IsAbs(r.File) || r.Period <= 0:
		return fmt.Errorf("rotation of %q every %s: it takes an absolute path and a time", r.File, r.Period)
	}
	return p.locked(func() error {
		all, err := p.Rotations()
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(have Rotation) bool { return have.File == r.File })
		return p.putRotations(append(all, r))
	})
}

// DropRotation is the reverse of SetRotation; with the last one the timer goes.
func (p *Place) DropRotation(file string) error {
	return p.locked(func() error {
		all, err := p.Rotations()
		if err != nil {
			return err
		}
		return p.putRotations(slices.DeleteFunc(all, func(have Rotation) bool { return have.File == file }))
	})
}

// Rotations are those that were set: what `espalier rotate --due` without a file looks at.
func (p *Place) Rotations() ([]Rotation, error) {
	path := filepath.Join(p.Dir, rotationsFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []Rotation
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read rotations: %s: %w", path, err)
	}
	return all, nil
}

func (p *Place) putRotations(all []Rotation) error {
	if len(all) == 0 {
		return errors.Join(p.removeUnits(rotateTimer, rotateService), remove(filepath.Join(p.Dir, rotationsFile)), p.tidy())
	}
	slices.SortFunc(all, func(a, b Rotation) int { return int(a.Period/time.Second) - int(b.Period/time.Second) })
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	program, err := p.program()
	if err != nil {
		return err
	}
	if err := p.write(rotationsFile, append(text, '\n')); err != nil {
		return err
	}
	service, err := p.installUnit(rotateService, p.rotateText(program), "")
	if err != nil {
		return err
	}
	timer, err := p.installUnit(rotateTimer, p.timerText(all[0].Period), timersTarget)
	if err != nil || !service && !timer || !p.Systemd {
		return err
	}
	return errors.Join(systemctl("daemon-reload"), systemctl("restart", p.unitName(rotateTimer)))
}

// firstLook is how soon after the timer is started it is looked: with a boot all SAs have gone.
const firstLook = "10s"

// timerText begins to count when the timer is started, which is at boot or when the first tunnel is there.
func (p *Place) timerText(period time.Duration) string {
	seconds := fmt.Sprintf("%ds", int(period.Seconds()))
	return unit{
		"Unit", fields{
			{"Description", "Look whether SAs of espalier's tunnels are to be replaced"},
			{"Documentation", "man:espalier-rotate(1)"},
		},
		"Timer", fields{
			{"OnActiveSec", firstLook},
			{"OnUnitActiveSec", seconds},
			{"AccuracySec", "1s"},
			{"RandomizedDelaySec", "0"},
			{"Unit", p.unitName(rotateService)},
		},
		"Install", fields{{"WantedBy", timersTarget}},
	}.String()
}

// rotateText is the service of the timer. It runs ssh with root's configuration, which may start anything:
// so there is little it can do without.
func (p *Place) rotateText(program string) string {
	return unit{
		"Unit", fields{
			{"Description", "Replace the SAs of espalier's tunnels that are due"},
			{"Documentation", "man:espalier-rotate(1)"},
			{"Wants", "network-online.target"},
			{"After", "network-online.target " + p.unitName(guardUnit)},
			{"RequiresMountsFor", quoted(p.Dir) + " " + quoted(filepath.Dir(program))},
			{"StartLimitIntervalSec", "0"},
		},
		"Service", append(fields{
			{"Type", "simple"}, // systemd before 244 restarts no oneshot
			{"User", "root"},   // so that HOME is set, for ssh
			{"ExecStart", command(program, "rotate", "--due")},
			{"Restart", "on-failure"}, // a peer that boots as well is not there yet
			{"RestartSec", "1min"},
			{"RuntimeMaxSec", "15min"},
			{"KillMode", "process"}, // what it leaves running undoes in time what it may have left half done
			{"OOMPolicy", "continue"},
			{"ProtectSystem", "full"},
			{"ReadWritePaths", "-" + quoted(p.Units)}, // the guard's unit
			{"ProtectControlGroups", "yes"},
			{"LockPersonality", "yes"},
			{"RestrictRealtime", "yes"},
		}, p.surroundings()...),
	}.String()
}

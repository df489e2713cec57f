package tshark

import "strings"

// Seen is what was found under one SPI.
type Seen struct {
	Frames, Good, Bad int
	Echoes            map[[2]int]int // by type and identifier
	TCP               int            // bytes
	Inner             map[string]int // by first protocol inside of ESP
}

// Tally sums up by SPI. esp is the number of all ESP packets.
func Tally(frames []Frame) (all map[uint32]*Seen, esp int) {
	all = map[uint32]*Seen{}
	for _, f := range frames {
		if f.SPI == 0 {
			continue
		}
		esp++
		s := all[f.SPI]
		if s == nil {
			s = &Seen{Echoes: map[[2]int]int{}, Inner: map[string]int{}}
			all[f.SPI] = s
		}
		s.Frames++
		if f.Good {
			s.Good++
		}
		if f.Bad {
			s.Bad++
		}
		if f.Echo >= 0 {
			s.Echoes[[2]int{f.Echo, f.ID}]++
		}
		s.TCP += f.TCP
		first, _, _ := strings.Cut(f.Inner(), ":")
		s.Inner[first]++
	}
	return all, esp
}

package conformance

import (
	"fmt"
	"time"

	"espalier/ipsec"
	"espalier/xfrm"
)

// carried is how many packets an SA has carried.
func (e *env) carried(spi ipsec.SPI) uint64 {
	e.Helper()
	s, err := e.Client.GetState(e.ctx, e.id(spi))
	e.must(err)
	return s.Current.Packets
}

// eventually gives what f does once that is want, or after a while whatever it gives.
func (e *env) eventually(f func() string, want string) string {
	e.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if got := f(); got == want || time.Now().After(end) {
			return got
		}
	}
}

// settle waits until an SA has carried n packets.
func (e *env) settle(spi ipsec.SPI, n uint64) {
	e.Helper()
	e.eventually(func() string { return fmt.Sprint(e.carried(spi)) }, fmt.Sprint(n))
}

// Between soft and hard limits of time lie some seconds: kernels count in whole ones, and look
// for the first time after one.
var lifetimeCases = []Case{
	{Name: "limits of packets", ESP: true, Want: "3 packets: -, the 4th: EXPIRE(soft), the 5th: -, the 6th: EXPIRE(hard) after 5 packets of 100 bytes, then ESRCH", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000, func(s *xfrm.State) { s.Limits.SoftPackets, s.Limits.HardPackets = 3, 5 }))
		l := e.listen(xfrm.GroupExpire, xfrm.GroupSA)
		e.send(3)
		e.settle(0x1000, 3)
		three := l.of(0)
		e.send(1)
		fourth := l.of(1)
		e.send(1)
		e.settle(0x1000, 5)
		fifth := l.of(0)
		e.send(1)
		end := l.next()
		c := end.State.Current
		_, err := e.Client.GetState(e.ctx, e.id(0x1000))
		return fmt.Sprintf("3 packets: %s, the 4th: %s, the 5th: %s, the 6th: %s after %d packets of %d bytes, then %s",
			three, fourth, fifth, wordsOf(&end), c.Packets, c.Bytes/max(c.Packets, 1), verdict(err))
	}},
	{Name: "limits of bytes", ESP: true, Want: "soft with the 3rd packet of 100 bytes at 150, hard with the 4th at 250", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000, func(s *xfrm.State) { s.Limits.SoftBytes, s.Limits.HardBytes = 150, 250 }))
		l := e.listen(xfrm.GroupExpire)
		words, events := [2]int{}, l.events
		for n := 1; n <= 6 && words[1] == 0; n++ {
			e.send(1)
			select {
			case event := <-events:
				if event.Hard {
					words[1] = n
				} else {
					words[0] = n
				}
			case <-time.After(silence):
			}
		}
		ordinal := map[int]string{2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}
		return fmt.Sprintf("soft with the %s packet of 100 bytes at 150, hard with the %s at 250", ordinal[words[0]], ordinal[words[1]])
	}},
	{Name: "limits of time", ESP: true, Want: "EXPIRE(soft), EXPIRE(hard), ESRCH", Do: func(e *env) string {
		l := e.listen(xfrm.GroupExpire, xfrm.GroupSA)
		e.add(e.state(0x1000, func(s *xfrm.State) { s.Limits.SoftAdd, s.Limits.HardAdd = 1, 4 }))
		l.next() // NEWSA
		soft, hard := l.next(), l.next()
		_, err := e.Client.GetState(e.ctx, e.id(0x1000))
		return fmt.Sprintf("%s, %s, %s", wordsOf(&soft), wordsOf(&hard), verdict(err))
	}},
	{Name: "limits of use", ESP: true, Want: "unused -, used EXPIRE(soft) EXPIRE(hard)", Do: func(e *env) string {
		e.install(e.policy())
		l := e.listen(xfrm.GroupExpire)
		e.add(e.state(0x1000, func(s *xfrm.State) { s.Limits.SoftUse, s.Limits.HardUse = 1, 4 }))
		time.Sleep(1500 * time.Millisecond)
		unused := l.of(0)
		e.send(1)
		return fmt.Sprintf("unused %s, used %s", unused, l.of(2))
	}},
	{Name: "an update begins the limits anew", ESP: true, Want: "EXPIRE(soft), updated: EXPIRE(soft)", Do: func(e *env) string {
		e.install(e.policy())
		l := e.listen(xfrm.GroupExpire)
		soft := func(n uint64) *xfrm.State {
			return e.state(0x1000, func(s *xfrm.State) { s.Limits.SoftPackets = n })
		}
		e.add(soft(1))
		e.send(2)
		first := l.of(1)
		e.settle(0x1000, 2)
		e.must(e.Client.UpdateState(e.ctx, soft(3)))
		e.send(2)
		return fmt.Sprintf("%s, updated: %s", first, l.of(1))
	}},
	{Name: "counters", ESP: true, Want: "3 packets, 300 bytes, oseq 3, used", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000))
		e.send(3)
		e.settle(0x1000, 3)
		s, err := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(err)
		used := "unused"
		if s.Current.UseTime != 0 {
			used = "used"
		}
		return fmt.Sprintf("%d packets, %d bytes, oseq %d, %s", s.Current.Packets, s.Current.Bytes, s.Replay.OSeq, used)
	}},
	{Name: "limits of time of a policy", Want: "POLEXPIRE(soft), POLEXPIRE(hard), ENOENT", Do: func(e *env) string {
		l := e.listen(xfrm.GroupExpire)
		p := e.elsewhere(1, func(p *xfrm.Policy) { p.Limits.SoftAdd, p.Limits.HardAdd = 1, 4 })
		e.install(p)
		soft, hard := l.next(), l.next()
		_, err := e.Client.GetPolicy(e.ctx, p.ID())
		return fmt.Sprintf("%s, %s, %s", wordsOf(&soft), wordsOf(&hard), verdict(err))
	}},
	{Name: "limits of use of a policy never used", Want: "POLEXPIRE(hard)", Do: func(e *env) string {
		l := e.listen(xfrm.GroupExpire)
		e.install(e.elsewhere(1, func(p *xfrm.Policy) { p.Limits.HardUse = 1 }))
		event := l.next()
		return wordsOf(&event)
	}},
}

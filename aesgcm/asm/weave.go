package main

// step emits one instruction, or a few that belong together.
type step func()

// weave emits both lists, each in its order, the shorter one spread evenly over the other.
// AES and carry-less multiplication use different units of the CPU and have long latencies;
// woven together each fills the gaps of the other.
func weave(a, b []step) {
	done := 0
	for i, s := range a {
		s()
		for ; done < (i+1)*len(b)/len(a); done++ {
			b[done]()
		}
	}
	for ; done < len(b); done++ {
		b[done]()
	}
}

func emit(steps []step) { weave(steps, nil) }

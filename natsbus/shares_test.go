package natsbus

import (
	"fmt"
	"testing"
)

// TestShares: however much the others have taken, a store that comes new finds a slot, and everything that was given back can be taken again.
func TestShares(t *testing.T) {
	const slots = 1000
	s := newShares(slots)
	fill := func(store string) (n int) {
		for {
			if _, ok := s.take(store, 1); !ok {
				return n
			}
			n++
		}
	}
	if got := fill("noisy"); got != slots/2 {
		t.Errorf("one store alone gets %d of %d slots", got, slots)
	}
	got := []int{slots / 2}
	for i := range 5 {
		n := fill(fmt.Sprint(i))
		if n == 0 {
			t.Errorf("store %d gets no slot beside %v", i, got)
		}
		got = append(got, n)
	}
	if used, ok := s.take("noisy", 1); ok || used != slots/2 {
		t.Errorf("the noisy store gets one more: %d, %v", used, ok)
	}
	if _, ok := s.take("big", slots); ok {
		t.Error("a store gets all there is")
	}
	for i, n := range got {
		store := "noisy"
		if i > 0 {
			store = fmt.Sprint(i - 1)
		}
		for range n {
			s.give(store, 1)
		}
	}
	if s.free != slots || len(s.used) != 0 {
		t.Errorf("all was given back, and %d of %d are free, %v in use", s.free, slots, s.used)
	}
}

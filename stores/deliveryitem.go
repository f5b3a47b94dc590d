package stores

import (
	"container/heap"
	"slices"
	"time"

	"github.com/quorate/quorate/api"
)

// item is a selected event that is not done.
type item struct {
	position uint64
	stream   string
	tries    int // deliveries in vain
	state    itemState
	at       time.Time // end of the flight or of the delay
	event    *api.Event
	size     int
	index    [2]int // places in ready and timers, from 1; 0: not there
	reason   string // of one that is to be parked
	counts   bool   // with AckNone: it counts as in flight until the change is committed
}

type itemState byte

const (
	itemWaits   itemState = iota // to be delivered
	itemFlies                    // a consumer has it
	itemDelayed                  // to be delivered later
	itemSettles                  // a change that says it is done is on its way
	itemDone
)

// lane is the items of one stream, in position order: the first is delivered while no other is in flight.
type lane struct {
	items  []*item
	flying int
}

// drop takes the item out. Most of the time it is the first.
func (l *lane) drop(it *item) {
	if i := slices.Index(l.items, it); i == 0 {
		l.items[0] = nil
		l.items = l.items[1:]
	} else if i > 0 {
		l.items = slices.Delete(l.items, i, i+1)
	}
}

// itemHeap is a heap of items, each of which knows its place.
type itemHeap struct {
	items []*item
	slot  int // of item.index
	less  func(a, b *item) bool
}

func (h *itemHeap) Len() int           { return len(h.items) }
func (h *itemHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *itemHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index[h.slot], h.items[j].index[h.slot] = i+1, j+1
}
func (h *itemHeap) Push(v any) {
	it := v.(*item)
	h.items = append(h.items, it)
	it.index[h.slot] = len(h.items)
}
func (h *itemHeap) Pop() any {
	it := h.items[len(h.items)-1]
	h.items[len(h.items)-1] = nil
	h.items = h.items[:len(h.items)-1]
	it.index[h.slot] = 0
	return it
}

func (h *itemHeap) add(it *item) {
	if it.index[h.slot] == 0 {
		heap.Push(h, it)
	}
}

func (h *itemHeap) remove(it *item) {
	if i := it.index[h.slot]; i > 0 {
		heap.Remove(h, i-1)
	}
}

package fsm

import (
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// bbolt uses pages that were freed again, and never makes its file smaller. What scavenging freed is given to the file system by punching holes where free pages are: the file
// keeps its length, and its blocks become fewer.
//
// A page that bbolt calls free, in a write transaction with none pending, belongs to no state that anybody can read: not to the last commit, nor to one that
// an open read transaction sees, for those pages are pending. The next commit may write anything there, so zeros do no harm, whenever we die. The write transaction keeps
// others from using the pages while we are at it.
const (
	holesAt    = 1 << 20 // bytes that must be free before holes are punched; up to 16 times that, when more than that is used
	holesPages = 16_384  // pages looked at in a step; so long a flush waits
)

// ErrNoHoles says that the file system does not know holes.
var ErrNoHoles = errors.New("the file system cannot punch holes")

// GiveBack makes a step of giving free pages to the file system. While it says that there is more, the next step should follow.
func (f *FSM) GiveBack() (bytes int64, more bool, err error) {
	f.sweep.mu.Lock()
	defer f.sweep.mu.Unlock()
	if f.sweep.settled && !f.sweep.renewed.Load() || f.nothingGone() || f.streaming() {
		return 0, false, nil
	}
	leave, err := f.enter()
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer leave()
	err = guard(func() error {
		bytes, more, err = f.punchStep()
		return err
	})
	return bytes, more, err
}

func (f *FSM) punchStep() (bytes int64, more bool, err error) {
	f.flushing.Lock()
	defer f.flushing.Unlock()
	if f.failure() != nil {
		return 0, false, nil
	}
	if f.sweep.renewed.Swap(false) {
		f.sweep.holes, f.sweep.settled = 0, false
	}
	f.applying.Lock()
	f.dropReader()
	f.applying.Unlock()
	file, err := os.OpenFile(f.cfg.Path, os.O_RDWR, 0)
	if err != nil {
		return 0, false, err
	}
	defer file.Close()
	worth, pending, err := f.worthHoles(file)
	if !worth || err != nil {
		f.sweep.holes, f.sweep.settled = 0, err == nil && !pending
		return 0, false, err
	}
	tx, err := f.db.Begin(true)
	if err != nil {
		return 0, false, err
	}
	defer tx.Rollback()
	p := puncher{f: f, tx: tx, file: file, page: int64(f.db.Info().PageSize)}
	f.sweep.holes, err = p.run(f.sweep.holes)
	f.sweep.settled = err == nil && f.sweep.holes == 0
	return p.bytes, err == nil && f.sweep.holes > 0, err
}

// worthHoles reports whether enough of the file is free and not given back yet. While some of it is pending, since somebody reads what was there before, nothing may be. flushing
// is held.
func (f *FSM) worthHoles(file *os.File) (worth, pending bool, err error) {
	tx, err := f.db.Begin(true) // lets go of what no reader needs any more, and has it counted
	if err != nil {
		return false, false, err
	}
	size := tx.Size()
	if err := tx.Rollback(); err != nil {
		return false, false, err
	}
	stats := f.db.Stats()
	if stats.PendingPageN > 0 {
		return false, true, nil
	}
	fi, err := file.Stat()
	if err != nil {
		return false, false, err
	}
	used := size - int64(stats.FreePageN)*int64(f.db.Info().PageSize)
	return allocated(fi)-used > max(f.sweep.least, min(used/16, 16*f.sweep.least)), false, nil
}

// puncher looks for free pages that have blocks.
type puncher struct {
	f     *FSM
	tx    *bolt.Tx
	file  *os.File
	page  int64
	bytes int64 // given back
}

// run looks at holesPages pages that have blocks, from the offset on. next is where to go on; 0: that was the file.
func (p *puncher) run(from int64) (next int64, err error) {
	left := holesPages
	for left > 0 {
		begin, end, err := data(p.file, from)
		if err != nil || begin < 0 {
			return 0, err
		}
		at := begin / p.page * p.page
		free := int64(-1) // where the free pages at hand begin
		for ; at < end && left > 0; at, left = at+p.page, left-1 {
			info, err := p.tx.Page(int(at / p.page))
			if err != nil {
				return 0, err
			}
			if info == nil { // behind what the last commit uses
				if err := p.punch(free, at); err != nil {
					return 0, err
				}
				return 0, nil
			}
			switch isFree := info.Type == "free"; {
			case isFree && free < 0:
				free = at
			case !isFree && free >= 0:
				if err := p.punch(free, at); err != nil {
					return 0, err
				}
				free = -1
			}
		}
		if err := p.punch(free, at); err != nil {
			return 0, err
		}
		from = at
	}
	return from, nil
}

// punch gives back the bytes from begin to end; begin is below 0 when there are none.
func (p *puncher) punch(begin, end int64) error {
	if begin < 0 {
		return nil
	}
	if err := p.f.hook("punch"); err != nil {
		return err
	}
	if err := punchHole(p.file, begin, end-begin); err != nil {
		return fmt.Errorf("give %d bytes of %s to the file system: %w", end-begin, p.f.cfg.Path, err)
	}
	p.bytes += end - begin
	return p.f.hook("punched")
}

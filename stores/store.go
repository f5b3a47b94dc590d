package stores

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nuid"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/raftnode/wal"
	"github.com/quorate/quorate/stores/fsm"
)

// Spec says which store to open.
type Spec struct {
	Name        string
	ID          uint64   // unique for ever; names files, never the store's name
	Incarnation uint64   // how often the name was created
	Members     []string // server ids of the first replicas
	Limits      api.Limits
}

func (s Spec) group() wal.GroupID { return wal.GroupID{Store: s.ID, Incarnation: s.Incarnation} }

// Store is one event store's replica on this node. Its methods may be called concurrently.
type Store struct {
	spec          Spec
	machine       *fsm.FSM
	group         *raftnode.Group
	feed          *liveFeed
	door          *door
	limiter       limiter
	dir           string
	keySets       keySets       // of backups under way
	looking       chan struct{} // slots of waiting reads that look again
	now           func() time.Time
	log           *slog.Logger
	subscriptions dispatcher

	commands func(serverID string) (kind int, heard bool) // see Config

	flushes *flushes // shared by all stores of the node

	flushDue atomic.Bool // a timed flush is to come
	dropped  atomic.Bool // about to be closed because it was dropped; set before waits.gone is closed
	waits    waits

	met      atomic.Pointer[error] // damage that a reader met last
	setAside func(reason error)    // gives the damaged replica to the manager; whoever comes second waits for the first
	aside    atomic.Bool           // about to be closed because it is damaged; set before waits.gone is closed
	damage   error                 // guarded by the manager's mu; met by the replica, which is to be closed

	scavenged, givenBack atomic.Uint64 // events and bytes, see tend.go
	noHoles              atomic.Bool   // that the file system cannot take space back was told
}

const (
	stateFile = "store.db"
	// damagedFile says why a replica was set aside. While it lies there the replica is not opened: it must not vote with what it has lost.
	damagedFile = "damaged.txt"
)

func openStore(m *Manager, spec Spec, dir string) (*Store, error) {
	log := m.cfg.Logger.With("store", spec.Name)
	if reason, err := os.ReadFile(filepath.Join(dir, damagedFile)); err == nil {
		return nil, fmt.Errorf("open store %s: %w: %s", spec.Name, fsm.ErrDamaged, reason)
	}
	s := &Store{spec: spec, now: m.cfg.Now, log: log, dir: dir, looking: make(chan struct{}, lookAgain), waits: newWaits(), commands: m.cfg.Commands, flushes: &m.flushes}
	if err := removeKeySets(dir); err != nil {
		return nil, fmt.Errorf("open store %s: %w", spec.Name, err)
	}
	var once sync.Once // many readers may meet one flaw
	s.setAside = func(reason error) { once.Do(func() { m.damaged(s, dir, reason) }) }
	s.subscriptions.store, s.subscriptions.pusher = s, m.cfg.Push
	s.door = newDoor(s, func(entry []byte) (proposal, error) { return s.group.Propose(entry) })
	s.SetLimits(spec.Limits)
	onDirty, prior := s.flushSoon, spec.Name == api.ConfigStore
	if prior { // small, and what a node that starts alone knows of its stores: synced at once, before all others
		onDirty = nil
	}
	machine, err := fsm.Open(fsm.Config{
		Path: filepath.Join(dir, stateFile), Store: spec.ID, Incarnation: spec.Incarnation,
		Logger: log, OnFatal: func(err error) {
			if errors.Is(err, fsm.ErrDamaged) {
				s.setAside(err)
				return
			}
			m.cfg.OnFatal(err)
		},
		OnDirty: onDirty, Shared: m.shared, Prior: prior,
	})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", spec.Name, err)
	}
	s.machine = machine
	s.feed = newLiveFeed(s, m.cfg.OnCommitted, m.cfg.Listens)
	machine.OnAppend(s.feed.appended)
	s.group, err = m.cfg.Node.OpenGroup(raftnode.GroupConfig{
		ID: spec.group(), Name: spec.Name, Dir: dir, Machine: machine, Bootstrap: spec.Members,
		OnLeadership: func(l raftnode.Leadership) {
			s.feed.leads(l)
			s.subscriptions.leads(l)
			if m.cfg.OnLeadership != nil {
				m.cfg.OnLeadership(s, l)
			}
		},
	})
	if err != nil {
		machine.Close()
		return nil, err
	}
	return s, nil
}

// flushSoon is told that the state file is behind. A flush that is due already will do: one that something else asks for meanwhile does not make another one due, or a
// node whose overlays are full would owe ever more.
func (s *Store) flushSoon() {
	if s.flushDue.Swap(true) {
		return
	}
	time.AfterFunc(s.flushes.after(time.Now()), func() { // ends with the flush; a machine that is closed by then has flushed
		s.flushDue.Store(false) // what comes from here on may miss this one
		s.machine.Flush()       // an error ends the replica through OnFatal
	})
}

// flushes spreads the syncs of a node's state files. Each costs a sync of a file that may have grown, and while the file system writes its journal for it the
// raft log waits too; nobody waits for a flush, since the log has what is not flushed. It says when a flush is due; how many are under way at once, on
// a disk that is slower than that, is bounded by flushSlots.
type flushes struct {
	mu   sync.Mutex // guards next
	next time.Time  // no flush before
}

const (
	flushEvery = time.Second           // applied entries are flushed so long after the first of them, when few stores are written to
	flushGap   = 40 * time.Millisecond // between two flushes of a node: 200 busy stores are flushed every 8 s

	// flushSlots is how many state files are synced at once, whoever asks for it; config is not counted. More would not make a disk faster, and the log waits
	// behind each of them.
	flushSlots = 4

	// unflushed is how many bytes the overlays of all stores hold before the largest are flushed at once. It is four full overlays, and what a disk takes in a
	// few seconds. At twice as much appends are refused, at four times a replica waits to apply: memory for it is bounded whatever the number of stores.
	unflushed = 256 << 20
)

// after reserves the next place and returns how long it is until then.
func (f *flushes) after(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := now.Add(flushEvery)
	if at.Before(f.next) {
		at = f.next
	}
	f.next = at.Add(flushGap)
	return at.Sub(now)
}

// Name returns the store's name.
func (s *Store) Name() string { return s.spec.Name }

// Spec returns what the store was opened with.
func (s *Store) Spec() Spec { return s.spec }

// Leadership returns this node's present view of who leads the store.
func (s *Store) Leadership() raftnode.Leadership { return s.group.Leadership() }

// WaitLeadership returns the first view that ok accepts, or ctx's error.
func (s *Store) WaitLeadership(ctx context.Context, ok func(raftnode.Leadership) bool) (raftnode.Leadership, error) {
	return s.group.WaitLeadership(ctx, ok)
}

// Members returns the server ids of the store's replicas.
func (s *Store) Members() []string { return s.group.Members() }

// Lone reports whether the store has no other replica.
func (s *Store) Lone() bool { return len(s.Members()) < 2 }

// Transfer hands the store's leadership to the member with the server id, or to the best follower when it is empty.
func (s *Store) Transfer(to string) error { return s.group.Transfer(to) }

// waits is what ends waiting for events before its time.
type waits struct {
	over, gone <-chan struct{} // closed by end, when nobody is to wait any more, and by leave, when the store is about to be closed
	end, leave func()          // may be called again
}

func newWaits() waits {
	over, gone := make(chan struct{}), make(chan struct{})
	return waits{over: over, gone: gone, end: sync.OnceFunc(func() { close(over) }), leave: sync.OnceFunc(func() { close(gone) })}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// closed is what readers are told whom the store's closing overtook.
func (s *Store) closed() *api.Error {
	if s.dropped.Load() {
		return api.ErrStoreNotFound.With("there is no store %q any more: it was dropped; create it with config.write.put.%s", s.Name(), s.Name())
	}
	if s.aside.Load() {
		return api.ErrReplicaDamaged.With("this node's replica of store %s is damaged and set aside; ask again to reach another node", s.Name())
	}
	return s.shuttingDown()
}

func (s *Store) shuttingDown() *api.Error {
	return api.ErrShuttingDown.With("store %s is closing on this node; retry to reach another", s.Name())
}

// IsClosing reports whether the store is about to be closed here, or is closed. It is true before Config.OnClosing is called.
func (s *Store) IsClosing() bool { return isClosed(s.waits.gone) }

// close waits for the Raft group, appends under way, subscriptions and the feed, in this order.
func (s *Store) close() error {
	err := s.group.Close()
	s.keySets.close()
	s.door.close()
	s.subscriptions.close()
	s.feed.close()
	if merr := s.machine.Close(); err == nil {
		err = merr
	}
	return err
}

// Append is a request to append events to one stream or several, all or none.
type Append struct {
	Stream     string          // empty: every event names its own
	Expected   int64           // api.Expect*, or the stream's exact last version; ExpectAny when Stream is empty
	Events     []api.NewEvent  // Begin stamps missing ids into it (StampIDs)
	Conditions []api.Condition // all must hold in the state before the append
}

// Check reports the first thing that is wrong with the request.
func (a *Append) Check() *api.Error {
	if a.Stream != "" {
		if err := api.CheckStreamName(a.Stream); err != nil {
			return err
		}
	} else if a.Expected != api.ExpectAny {
		return api.ErrBadRequest.With("expected_version is about one stream, and the subject names none; use conditions: [{\"stream\":…,\"version\":%d}]", a.Expected)
	}
	if len(a.Events) == 0 {
		return api.ErrBadRequest.With("events is empty; an append needs at least one event")
	}
	if len(a.Events) > api.MaxAppendEvents {
		return api.ErrTooLarge.With("%d events; at most %d go into one append; split it", len(a.Events), api.MaxAppendEvents)
	}
	if a.Expected < api.ExpectAny && a.Expected != api.ExpectExists {
		return api.ErrBadRequest.With("expected_version %d is not a version; use n, -1 (must not exist), -2 (any) or -4 (must exist)", a.Expected)
	}
	for i := range a.Events {
		if err := a.checkStream(i); err != nil {
			return err
		}
		if err := a.Events[i].Check(i); err != nil {
			return err
		}
	}
	return api.CheckConditions(a.Conditions)
}

func (a *Append) checkStream(i int) *api.Error {
	stream := a.Events[i].Stream
	switch {
	case a.Stream == "" && stream == "":
		return api.ErrBadName.With("events[%d]: the stream is missing; give every event its stream, or name one stream behind the verb, as in es.orders.write.append.order-42", i)
	case a.Stream == "":
		if err := api.CheckStreamName(stream); err != nil {
			return err.With("events[%d]: %s", i, err.Description)
		}
	case stream != "" && stream != a.Stream:
		return api.ErrBadRequest.With("events[%d]: stream is %q, and the subject names %q; leave it out, or append to several streams without one in the subject", i, stream, a.Stream)
	}
	return nil
}

// StampIDs gives every event without an id one, so that the append is the same wherever and however often it is tried.
func StampIDs(a *Append) {
	for i := range a.Events {
		if a.Events[i].ID == "" {
			a.Events[i].ID = nuid.Next()
		}
	}
}

// Begin stamps ids and time, and hands the append to the store's leader, which must be this replica. Appends take effect in the order of
// the Begin calls. When Begin returns no error, done is called once, from another goroutine, with the append's result, once it is committed and applied
// here, or why it was refused; it should not block. The result is an *api.AppendResponse, or an *api.AppendSeveralResponse when the request names no stream.
//
// api.ErrOutcomeUnknown is the one error after which the append may still take effect; trying the same Append again, here or at
// another leader, tells.
func (s *Store) Begin(a *Append, done func(reply any, err *api.Error)) *api.Error {
	if err := a.Check(); err != nil {
		return err
	}
	if err := s.writable(); err != nil {
		return err
	}
	cmd := s.command(a)
	if err := s.lacking(cmd.Kind()); err != nil {
		return err
	}
	release, err := s.admit(a)
	if err != nil {
		return err
	}
	s.door.enter(&pending{body: cmd.Body(), stream: cmd.Stream, lists: a.Stream == "", done: after(release, done)})
	return nil
}

// writable refuses what this replica cannot take at the moment: it does not lead, or its disk is behind.
func (s *Store) writable() *api.Error {
	if l := s.group.Leadership(); l.Role != raftnode.Serving {
		return s.notLeader(l)
	}
	if s.machine.Pressure() > maxPressure {
		return api.ErrDiskBehind.With("the node that leads store %s has applied more than its disk has taken yet; nothing was written; slow down and retry", s.Name())
	}
	return nil
}

// Done is called once with a write's result, from another goroutine, or with why it was refused; it should not block.
type Done = func(reply any, err *api.Error)

// change hands a change to the store's leader, as Begin does an append, in the order of the calls. answer makes the reply of what the machine answered.
func (s *Store) change(c fsm.Change, answer func(value any) any, done Done) *api.Error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.lacking(c.Kind()); err != nil {
		return err
	}
	s.door.enter(&pending{body: fsm.ChangeBody(c), answer: answer, done: done})
	return nil
}

// Commands is the highest kind of command that this program can apply. Nodes tell one another.
const Commands = fsm.Kinds

// lacking refuses a command of a kind that a member of the store may not be able to apply: it would leave the command out and differ from the others from
// then on. Once the store has applied one of the kind, all members could, and that is not asked again.
func (s *Store) lacking(kind int) *api.Error {
	if kind <= 1 || s.commands == nil || kind <= s.machine.Kinds() {
		return nil
	}
	for _, member := range s.Members() {
		if can, heard := s.commands(member); can < kind {
			name := raftnode.ServerName(member)
			if !heard {
				return api.ErrFeature.With("node %s has not said yet whether it can carry out %s; start it, or retry in a moment; nothing was written", name, fsm.Feature(kind))
			}
			return api.ErrFeature.With("node %s runs a version that cannot carry out %s; upgrade it; nothing was written", name, fsm.Feature(kind))
		}
	}
	return nil
}

// maxPressure of the machine (see fsm.FSM.Pressure) is where appends are refused: at 1 raft's own goroutine would wait, and with it heartbeats of entries
// that are already accepted.
const maxPressure = 0.5

func (s *Store) command(a *Append) fsm.Append {
	StampIDs(a)
	cmd := fsm.Append{Time: s.now().UnixMicro(), Stream: a.Stream, Expected: a.Expected, Events: make([]fsm.EventRecord, len(a.Events)), Conditions: a.Conditions}
	if a.Stream == "" {
		cmd.Stream, cmd.Others, cmd.Of = spread(a.Events)
	}
	for i := range a.Events {
		e := &a.Events[i]
		cmd.Events[i] = fsm.EventRecord{
			ID: e.ID, Type: e.Type, Data: e.DataBase64, Metadata: api.CompactJSON(e.Metadata), Tags: e.Tags,
		}
		if e.Data != nil { // compact, since an append that is forwarded is encoded anew: a retry must be the same bytes whichever way it came
			cmd.Events[i].Data, cmd.Events[i].JSON = api.CompactJSON(e.Data), true
		}
	}
	return cmd
}

// spread lists the events' streams in the order in which they first appear, and the place of each event in the list. places is nil when there is only one.
func spread(events []api.NewEvent) (first string, others []string, places []int) {
	first = events[0].Stream
	known := map[string]int{first: 0}
	places = make([]int, len(events))
	for i := range events {
		at, ok := known[events[i].Stream]
		if !ok {
			others = append(others, events[i].Stream)
			at = len(others)
			known[events[i].Stream] = at
		}
		places[i] = at
	}
	if others == nil {
		places = nil
	}
	return first, others, places
}

// Append is Begin of an append that names its stream, and waits for the result.
func (s *Store) Append(a *Append) (*api.AppendResponse, *api.Error) {
	type result struct {
		reply any
		err   *api.Error
	}
	c := make(chan result, 1)
	if err := s.Begin(a, func(reply any, err *api.Error) { c <- result{reply, err} }); err != nil {
		return nil, err
	}
	r := <-c
	res, _ := r.reply.(*api.AppendResponse)
	return res, r.err
}

func (s *Store) notLeader(l raftnode.Leadership) *api.Error {
	if l.Leader == "" || l.Role != raftnode.Follower {
		return api.ErrNoLeader.With("store %s has no leader at the moment; nothing was written; retry shortly", s.Name())
	}
	err := api.ErrNotLeader.With("store %s is led by %s; nothing was written; retry to reach it", s.Name(), raftnode.ServerName(l.Leader))
	err.Leader = raftnode.ServerName(l.Leader)
	return err
}

// apiError says in the API's words what the Raft group or the context said.
func (s *Store) apiError(err error) *api.Error {
	var known *api.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, raftnode.ErrOutcomeUnknown):
		return api.ErrOutcomeUnknown.With("store %s lost its leader while the write was under way; send it again to find out, an append with the same event ids", s.Name())
	case errors.Is(err, raftnode.ErrNoLeader):
		return api.ErrNoLeader.With("store %s has no leader that a majority follows; retry shortly", s.Name())
	case errors.Is(err, raftnode.ErrClosed):
		return s.shuttingDown()
	case errors.Is(err, fsm.ErrClosed): // only reads come so far
		return s.closed()
	case errors.Is(err, raftnode.ErrNotLeader):
		return s.notLeader(s.group.Leadership())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return api.ErrTimeout.With("store %s did not answer in time", s.Name())
	}
	s.log.Error("request failed", "error", err)
	if errors.Is(err, fsm.ErrDamaged) {
		return s.metDamage(err)
	}
	return api.ErrInternal.With("store %s: %v", s.Name(), err)
}

// metDamage says what damage that a reader met means. It sets nothing aside: the same damage may have been sent to other replicas with the state, and a bug may look like damage, so that a read which is
// sent on would set aside one replica after the other, and a store that answers nearly everything would have no majority. Whoever knows that a majority is sound without this one does (SetAside).
func (s *Store) metDamage(err error) *api.Error {
	if s.Lone() {
		return api.ErrInternal.With("store %s has no other replica than this damaged one (%v); what can still be read is left as it is; restore a backup under another name", s.Name(), err)
	}
	if !errors.Is(err, fsm.ErrPanic) { // a request may be what makes it panic
		s.met.Store(&err)
	}
	return api.ErrReplicaDamaged.With("this node's replica of store %s is damaged (%v); ask again to reach another node", s.Name(), err)
}

// SetAside sets the replica aside if a reader has met damage in it, as applying and flushing do at once: it must not vote with what it has lost. It is for who knows that a majority of the replicas answers
// what this one cannot. It does not wait until the replica is closed.
func (s *Store) SetAside() {
	if err := s.met.Load(); err != nil {
		s.setAside(*err)
	}
}

// leaderError is apiError for what a consumer of a subscription is told. It cannot be answered elsewhere: only the leader delivers.
func (s *Store) leaderError(err error) *api.Error {
	e := s.apiError(err)
	if errors.Is(e, api.ErrReplicaDamaged) {
		return api.ErrInternal.With("the replica that leads store %s is damaged (%v); have another one lead it: quorate cluster transfer %s", s.Name(), err, s.Name())
	}
	return e
}

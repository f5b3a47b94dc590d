package stores

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/raftnode"
	"github.com/quorate/quorate/stores/fsm"
)

// Config is what a Manager needs.
type Config struct {
	Node *raftnode.Node
	Dir  string // the node's data directory; stores live in stores/, what was dropped in removed/
	// OnLeadership is told of every change of a store's leadership, in order for each store.
	OnLeadership func(*Store, raftnode.Leadership)
	// OnCommitted is given the events appended while this node leads, in position order for each store.
	OnCommitted func(*Store, []api.Event)
	// Listens reports whether OnCommitted has a use for the stream's events at the moment; nil: always. It must not block.
	Listens func(s *Store, stream string) bool
	// Push publishes events of subscriptions that have a deliver_subject; nil: they are only fetched.
	Push      Pusher
	OnClosing func(s *Store, dropped bool) // the store is about to be closed, because it was dropped or for another reason
	OnFatal   func(error)                  // a failed write or fsync
	// Commands returns the highest kind of command that a member says it can apply, and whether it was heard since this node started. Appends that need more
	// than some member can are refused. Default: all can.
	Commands func(serverID string) (kind int, heard bool)
	Now      func() time.Time // default: time.Now
	Logger   *slog.Logger
}

// Manager opens, closes and sets aside the stores of one node.
type Manager struct {
	cfg     Config
	flushes flushes
	shared  *fsm.Shared
	stop    chan struct{}  // closed by Close
	wg      sync.WaitGroup // those who rest idle stores and tend streams, and close damaged replicas

	// opening is held by those who open several stores or move folders, so that none is moved while it is being opened. It is taken before mu, and by no store's goroutine.
	opening sync.Mutex

	mu      sync.Mutex // guards what follows
	stores  map[string]*Store
	failed  map[string]Failure
	wanted  int           // how many data stores the last Reconcile was to have open
	changed chan struct{} // closed and replaced when stores or failed change
	closed  bool
}

// openParallel bounds how many stores open at once: each replays its log and syncs.
const openParallel = 8

// NewManager returns a manager with no store open.
func NewManager(cfg Config) *Manager {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Manager{cfg: cfg, stores: make(map[string]*Store), failed: make(map[string]Failure), changed: make(chan struct{}), stop: make(chan struct{}),
		shared: fsm.NewShared(fsm.Bounds{Flushes: flushSlots, Files: openFiles(descriptorLimit()), Unflushed: unflushed})}
	m.wg.Go(func() { m.restIdle(m.stop) }) // ends with Close
	m.wg.Go(func() { m.tend(m.stop) })     // ends with Close
	return m
}

// Open opens one store. A store that cannot be opened is listed by Failures; the others go on. It is tried again, unless that is of no use.
func (m *Manager) Open(spec Spec) (*Store, error) {
	if s, ok := m.Get(spec.Name); ok && s.spec.group() == spec.group() {
		return s, nil
	}
	if f, ok := m.failure(spec); ok && f.Lasts() { // also when the damage could not be written down
		return nil, f.Err
	}
	dir := m.dir(spec)
	err := os.MkdirAll(dir, 0o750)
	if err == nil {
		err = raftnode.SyncDir(filepath.Dir(dir))
	}
	var s *Store
	if err == nil {
		s, err = openStore(m, spec, dir)
	}
	return m.list(spec, s, err)
}

// list takes in a store that was opened, or says why it was not.
func (m *Manager) list(spec Spec, s *Store, err error) (*Store, error) {
	m.mu.Lock()
	closed := m.closed
	if err == nil && s.damage != nil { // it was met by the first entries
		err = s.damage
	}
	switch {
	case err != nil:
		m.failedLocked(spec, err)
	case !closed:
		delete(m.failed, spec.Name)
		m.stores[spec.Name] = s
	}
	m.announceLocked()
	m.mu.Unlock()
	if err != nil {
		m.cfg.Logger.Error("store is not open on this node", "store", spec.Name, "error", err)
		if s != nil {
			m.closing(s, false) // whoever was told of its leadership
			err = errors.Join(err, s.close())
		}
		return nil, err
	}
	if closed {
		m.closing(s, false)
		return nil, errors.Join(raftnode.ErrClosed, s.close())
	}
	return s, nil
}

func (m *Manager) announceLocked() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Manager) dir(spec Spec) string {
	return filepath.Join(m.cfg.Dir, "stores", spec.group().String())
}

// Get returns an open store.
func (m *Manager) Get(name string) (*Store, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.stores[name]
	return s, ok
}

// Wait returns the store once it is open in that incarnation of its name or a later one, why it failed to open, or ctx's error.
func (m *Manager) Wait(ctx context.Context, name string, incarnation uint64) (*Store, error) {
	for {
		m.mu.Lock()
		s, failure, changed := m.stores[name], m.failed[name], m.changed
		m.mu.Unlock()
		switch {
		case s != nil && s.spec.Incarnation >= incarnation:
			return s, nil
		case failure.Err != nil && failure.Spec.Incarnation >= incarnation:
			return nil, failure.Err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// List returns the open stores in name order.
func (m *Manager) List() []*Store {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Store, 0, len(m.stores))
	for _, s := range m.stores {
		list = append(list, s)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name() < list[j].Name() })
	return list
}

// failure returns why the store, of the same incarnation, is not open here.
func (m *Manager) failure(spec Spec) (f Failure, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok = m.failed[spec.Name]
	return f, ok && f.Spec.group() == spec.group()
}

// Failures returns the stores that should be open here and are not, in name order.
func (m *Manager) Failures() []Failure {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Failure, 0, len(m.failed))
	for _, f := range m.failed {
		list = append(list, f)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Spec.Name < list[j].Spec.Name })
	return list
}

// Reconcile makes the open data stores those of want: what is no longer named, or is named with another incarnation, is closed and its
// files are moved aside; then what is missing is opened; a bounded number at once. The config store is left alone.
func (m *Manager) Reconcile(want []Spec) {
	m.opening.Lock()
	defer m.opening.Unlock()
	wanted := make(map[string]Spec, len(want))
	for _, spec := range want {
		wanted[spec.Name] = spec
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, openParallel)
	for _, s := range m.List() {
		switch spec, ok := wanted[s.Name()]; {
		case s.Name() == api.ConfigStore:
		case !ok || spec.group() != s.spec.group():
			slots <- struct{}{}
			wg.Go(func() { // ends when the store is closed
				defer func() { <-slots }()
				m.Remove(s)
			})
		default:
			s.SetLimits(spec.Limits)
		}
	}
	wg.Wait() // a store is closed before another one of its name opens, so that no majority has both
	for _, f := range m.Failures() {
		if spec, ok := wanted[f.Spec.Name]; !ok || spec.group() != f.Spec.group() {
			m.forget(f)
		}
	}
	m.mu.Lock()
	m.wanted = len(want)
	m.mu.Unlock()
	m.openAll(want)
}

// openAll opens those of the stores that are not open, a bounded number at once.
func (m *Manager) openAll(specs []Spec) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, openParallel)
	for _, spec := range specs {
		if s, ok := m.Get(spec.Name); ok && s.spec.group() == spec.group() {
			continue
		}
		if isClosed(m.stop) { // nobody wants them any more
			break
		}
		wg.Add(1)
		slots <- struct{}{}
		go func() { // ends when the store is open or has failed
			defer func() { <-slots; wg.Done() }()
			m.Open(spec)
		}()
	}
	wg.Wait()
}

// Progress says how many data stores there should be here, and how many of them are open or set aside.
func (m *Manager) Progress() (done, wanted int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	done = len(m.stores) + len(m.failed)
	if _, ok := m.stores[api.ConfigStore]; ok {
		done--
	}
	return min(done, m.wanted), m.wanted
}

// Remove closes the store and moves its files aside; the log forgets the group. Nothing is deleted: the state file holds every event.
func (m *Manager) Remove(s *Store) error {
	m.mu.Lock()
	delete(m.stores, s.Name())
	m.announceLocked()
	m.mu.Unlock()
	m.closing(s, true)
	err := s.close()
	if aerr := m.setAside(s.spec.group().String()); err == nil {
		err = aerr
	}
	if rerr := m.cfg.Node.RemoveLog(s.spec.group()); err == nil {
		err = rerr
	}
	if err != nil {
		m.cfg.Logger.Error("store is dropped, but not cleanly", "store", s.Name(), "error", err)
	}
	return err
}

// damaged sets aside a replica in which damage was found, by itself while it applied or by a reader: it is closed and stays closed, also over a restart, while the node's other stores go
// on. It is called by those whom closing waits for, so that happens in another goroutine.
func (m *Manager) damaged(s *Store, dir string, reason error) {
	s.aside.Store(true)
	closed := make(chan struct{})
	m.cfg.Logger.Error("a replica is damaged and set aside", "store", s.Name(), "error", reason)
	if err := os.WriteFile(filepath.Join(dir, damagedFile), []byte(reason.Error()), 0o640); err != nil {
		m.cfg.Logger.Error("the damage is not written down", "store", s.Name(), "error", err)
	}
	m.mu.Lock()
	s.damage = reason
	defer m.mu.Unlock()
	if m.stores[s.Name()] != s || m.closed { // Open has yet to list it, it is closed, or Close is about to close it
		return
	}
	delete(m.stores, s.Name())
	m.failed[s.Name()] = Failure{Spec: s.spec, Err: reason, closed: closed}
	m.announceLocked()
	m.wg.Go(func() { // ends when the replica is closed
		defer close(closed)
		m.closing(s, false)
		if err := s.close(); err != nil {
			m.cfg.Logger.Error("close a damaged replica", "store", s.Name(), "error", err)
		}
	})
}

// forget is Remove of a store that is not open: it was set aside, or could not be opened.
func (m *Manager) forget(f Failure) {
	m.mu.Lock()
	delete(m.failed, f.Spec.Name)
	m.announceLocked()
	m.mu.Unlock()
	if f.closed != nil {
		<-f.closed
	}
	if err := m.setAside(f.Spec.group().String()); err != nil {
		m.cfg.Logger.Error("files of a dropped store stay where they are", "store", f.Spec.Name, "error", err)
	}
	if err := m.cfg.Node.RemoveLog(f.Spec.group()); err != nil {
		m.cfg.Logger.Error("the log of a dropped store stays", "store", f.Spec.Name, "error", err)
	}
}

// SetAsideUnknown moves every folder that belongs to none of the specs out of stores/, and makes the log forget those groups. It may be called
// only with specs that are as new as the config store's leader, while no store is being opened: what they miss is taken out of the node.
func (m *Manager) SetAsideUnknown(known []Spec) error {
	m.opening.Lock()
	defer m.opening.Unlock()
	keep := map[string]bool{}
	for _, spec := range known {
		keep[spec.group().String()] = true
	}
	for _, s := range m.List() {
		keep[s.spec.group().String()] = true
	}
	entries, err := os.ReadDir(filepath.Join(m.cfg.Dir, "stores"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		m.cfg.Logger.Warn("a folder that no store's record names is moved aside", "folder", e.Name())
		if err := m.setAside(e.Name()); err != nil {
			return err
		}
	}
	groups, err := m.cfg.Node.LoggedGroups()
	if err != nil {
		return err
	}
	for _, id := range groups {
		if !keep[id.String()] {
			if err := m.cfg.Node.RemoveLog(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *Manager) setAside(folder string) error {
	from := filepath.Join(m.cfg.Dir, "stores", folder)
	if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	aside := filepath.Join(m.cfg.Dir, "removed")
	if err := os.MkdirAll(aside, 0o750); err != nil {
		return err
	}
	to := filepath.Join(aside, fmt.Sprintf("%s-%s", folder, m.cfg.Now().UTC().Format("20060102T150405.000000000")))
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := raftnode.SyncDir(aside); err != nil {
		return err
	}
	return raftnode.SyncDir(filepath.Dir(from))
}

// handOverRetry is how long a store is given to find its next leader before this node, should it lead again, hands over once more.
const handOverRetry = 500 * time.Millisecond

// HandOver moves every leadership this node holds to other members, until none is left or ctx is done.
func (m *Manager) HandOver(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, openParallel)
	for _, s := range m.List() {
		if s.Leadership().Role == raftnode.Follower || s.Lone() {
			continue
		}
		wg.Add(1)
		slots <- struct{}{}
		go func() { // ends with the hand-over, or with ctx
			defer func() { <-slots; wg.Done() }()
			if err := s.handOver(ctx); err != nil {
				m.cfg.Logger.Warn("leadership was not handed over", "store", s.Name(), "error", err)
			}
		}()
	}
	wg.Wait()
}

// handOver transfers until another member leads. The one that is asked to stand may fail to win, and then this node may be elected again.
func (s *Store) handOver(ctx context.Context) error {
	moved := func(l raftnode.Leadership) bool { return l.Role == raftnode.Follower && l.Leader != "" }
	for {
		var err error
		if s.Leadership().Role != raftnode.Follower {
			err = s.Transfer("")
		}
		wait, cancel := context.WithTimeout(ctx, handOverRetry)
		_, werr := s.WaitLeadership(wait, moved)
		cancel()
		if werr == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Close closes every store except config, which is closed by CloseConfig after the configuration service.
func (m *Manager) Close() error {
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		close(m.stop)
	}
	m.mu.Unlock()
	m.wg.Wait()
	var errs []error
	for _, s := range m.List() {
		if s.Name() != api.ConfigStore {
			errs = append(errs, m.closeStore(s))
		}
	}
	return errors.Join(errs...)
}

// CloseConfig closes the config store, last of all.
func (m *Manager) CloseConfig() error {
	if s, ok := m.Get(api.ConfigStore); ok {
		return m.closeStore(s)
	}
	return nil
}

func (m *Manager) closeStore(s *Store) error {
	m.mu.Lock()
	delete(m.stores, s.Name())
	m.announceLocked()
	m.mu.Unlock()
	m.closing(s, false)
	return s.close()
}

func (m *Manager) closing(s *Store, dropped bool) {
	s.dropped.Store(dropped)
	s.waits.leave()
	if m.cfg.OnClosing != nil {
		m.cfg.OnClosing(s, dropped)
	}
}

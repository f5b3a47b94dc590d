package configsvc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// Manager is what the service needs of stores.Manager.
type Manager interface {
	SetAsideUnknown(known []stores.Spec) error
	Reconcile(want []stores.Spec)
}

var _ Manager = (*stores.Manager)(nil)

// Config is what a Service needs.
type Config struct {
	Store    *stores.Store   // the store named config, opened
	Manager  Manager         // opens what the records name
	ServerID string          // this member; it opens the stores whose records list it
	Members  func() []string // server ids a new store gets its replicas on
	OnFatal  func(error)     // the config log cannot be read or understood: the node must not go on with half a view
	Logger   *slog.Logger
}

// Service answers for the records and keeps the node's stores in step with them.
type Service struct {
	cfg    Config
	cancel context.CancelFunc
	ctx    context.Context // done when Close begins
	done   sync.WaitGroup  // run and tidy

	opening sync.Mutex // held while stores are opened, closed or set aside

	mu      sync.Mutex // guards what follows
	view    *projection
	changed chan struct{} // closed and replaced when view changes
	opened  uint64        // position whose stores have been reconciled
}

// Start reads the local state of the config store, opens the stores it names, and follows it until Close. It needs no network: a node that
// restarts alone still opens its stores.
func Start(cfg Config) (*Service, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{cfg: cfg, ctx: ctx, cancel: cancel, view: newProjection(), changed: make(chan struct{})}
	feed := cfg.Store.Feed(0)
	if err := s.load(ctx, feed); err != nil {
		cancel()
		return nil, fmt.Errorf("config records: %w", err)
	}
	s.reconcile()
	s.done.Add(2)
	go s.run(ctx, feed) // ends when ctx is cancelled
	go s.tidy(ctx)      // ends when the unknown is set aside, or ctx is cancelled
	return s, nil
}

// tidyRetry lies between tries to learn the newest configuration.
const tidyRetry = 500 * time.Millisecond

// tidy sets aside what belongs to no store. Whether something does can only be said of a view that is as new as the config store's leader: the local one may
// lack the records of stores that are there.
func (s *Service) tidy(ctx context.Context) {
	defer s.done.Done()
	for {
		try, cancel := context.WithTimeout(ctx, tidyTimeout)
		err := s.Catchup(try, api.ReadOptions{})
		cancel()
		if err == nil {
			break
		}
		timer := time.NewTimer(tidyRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
	s.opening.Lock() // nothing is opened meanwhile, so whatever is open is in the view
	defer s.opening.Unlock()
	s.mu.Lock()
	known := append(s.view.specs(s.cfg.ServerID), s.cfg.Store.Spec())
	s.mu.Unlock()
	if err := s.cfg.Manager.SetAsideUnknown(known); err != nil {
		s.cfg.Logger.Error("folders that no record names stay where they are", "error", err)
	}
}

const tidyTimeout = 30 * time.Second

// load applies what the local state holds now.
func (s *Service) load(ctx context.Context, feed *stores.Feed) error {
	info, aerr := s.cfg.Store.Info(ctx, api.InfoRequest{ReadOptions: api.ReadOptions{Consistency: api.Local}})
	if aerr != nil {
		return aerr
	}
	for feed.Position() < info.LastPosition {
		events, err := feed.Next(ctx)
		if err != nil {
			return err
		}
		if err := s.apply(events); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) run(ctx context.Context, feed *stores.Feed) {
	defer s.done.Done()
	for {
		events, err := feed.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = s.apply(events)
		}
		if err != nil {
			s.cfg.OnFatal(fmt.Errorf("config records: %w", err))
			return
		}
		s.reconcile()
	}
}

func (s *Service) apply(events []api.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		if err := s.view.apply(e); err != nil {
			return err
		}
	}
	s.announceLocked()
	return nil
}

func (s *Service) reconcile() {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	specs, position := s.view.specs(s.cfg.ServerID), s.view.position
	s.mu.Unlock()
	s.cfg.Manager.Reconcile(specs)
	s.mu.Lock()
	s.opened = position
	s.announceLocked()
	s.mu.Unlock()
}

func (s *Service) announceLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Close stops following. The stores stay as they are; the manager closes them.
func (s *Service) Close() {
	s.cancel()
	s.done.Wait()
}

// Has reports whether this node's view has the store. It asks nobody, so it may be behind.
func (s *Service) Has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.view.get(name)
	return ok
}

// Records returns this node's view of all records, in name order.
func (s *Service) Records() []api.StoreRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view.list()
}

// Catchup makes the view as fresh as o asks and waits until the stores it names are open here. Returns the applied index.
func (s *Service) Catchup(ctx context.Context, o api.ReadOptions) *api.Error {
	if err := s.cfg.Store.Catchup(ctx, o); err != nil {
		return err
	}
	if o.Consistency == api.Local {
		return nil
	}
	info, err := s.cfg.Store.Info(ctx, api.InfoRequest{ReadOptions: api.ReadOptions{Consistency: api.Local}})
	if err != nil {
		return err
	}
	return s.Settled(ctx, info.LastPosition)
}

// Settled returns once this node has opened and closed its stores as the configuration says at the position, or later; or ctx's error.
func (s *Service) Settled(ctx context.Context, position uint64) *api.Error {
	return s.waitFor(ctx, func() bool { return s.opened >= position })
}

// waitFor returns when ok holds; it is called with mu held.
func (s *Service) waitFor(ctx context.Context, ok func() bool) *api.Error {
	for {
		s.mu.Lock()
		done, changed := ok(), s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return api.ErrShuttingDown
		case <-ctx.Done():
			return api.ErrTimeout.With("this node is still working through the configuration; retry")
		}
	}
}

// Get returns a store's record.
func (s *Service) Get(ctx context.Context, name string, o api.ReadOptions) (*api.ConfigGetResponse, *api.Error) {
	if err := api.CheckStoreName(name); err != nil {
		return nil, err
	}
	if err := s.Catchup(ctx, o); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.view.get(name)
	if !ok {
		return nil, api.ErrConfigNotFound.With("there is no store %q; create it with a request to config.write.put.%s", name, name)
	}
	return &api.ConfigGetResponse{Reply: api.Reply{Type: api.TypeConfigGet}, StoreRecord: &r, Applied: s.cfg.Store.Applied()}, nil
}

// List returns all records.
func (s *Service) List(ctx context.Context, o api.ReadOptions) (*api.ConfigListResponse, *api.Error) {
	if err := s.Catchup(ctx, o); err != nil {
		return nil, err
	}
	return &api.ConfigListResponse{Reply: api.Reply{Type: api.TypeConfigList}, Stores: s.Records(), Applied: s.cfg.Store.Applied()}, nil
}

// Put creates a store or changes its options. Only the config store's leader can. It returns when the change is committed; the store then opens on every member.
func (s *Service) Put(ctx context.Context, name string, r api.ConfigPutRequest) (*api.ConfigPutResponse, *api.Error) {
	if r.Options != nil {
		if err := r.Options.Check(); err != nil {
			return nil, err
		}
	}
	res := &api.ConfigPutResponse{Reply: api.Reply{Type: api.TypeConfigPut}, Store: name}
	_, err := s.write(ctx, name, r.ExpectedVersion, func(old entry, exists bool) (string, change, *api.Error) {
		c := change{Incarnation: old.record.Incarnation, Members: old.record.Members, Options: old.record.Options}
		typ := eventUpdated
		if !exists {
			typ = eventCreated
			c = change{Incarnation: old.record.Incarnation + 1, Members: s.cfg.Members()}
		}
		if r.Options != nil {
			c.Options = *r.Options
		}
		res.Created, res.Incarnation = !exists, c.Incarnation
		return typ, c, nil
	}, &res.Version)
	if err != nil {
		return nil, err
	}
	return res, nil
}

// Delete drops a store. It returns when that is committed, with its position in the config store; every member then closes the store and moves its files aside.
func (s *Service) Delete(ctx context.Context, name string, r api.ConfigDeleteRequest) (*api.ConfigPutResponse, uint64, *api.Error) {
	res := &api.ConfigPutResponse{Reply: api.Reply{Type: api.TypeConfigDelete}, Store: name, Deleted: true}
	position, err := s.write(ctx, name, r.ExpectedVersion, func(old entry, exists bool) (string, change, *api.Error) {
		if !exists {
			return "", change{}, api.ErrConfigNotFound.With("there is no store %q to delete", name)
		}
		res.Incarnation = old.record.Incarnation
		return eventDeleted, change{Incarnation: old.record.Incarnation, Options: old.record.Options}, nil
	}, &res.Version)
	if err != nil {
		return nil, 0, err
	}
	return res, position, nil
}

// write decides on the newest record and appends the decision with that record's version as a condition; when another write came between,
// it decides anew. It returns the position of what it has appended.
func (s *Service) write(ctx context.Context, name string, expected *int64,
	decide func(old entry, exists bool) (string, change, *api.Error), version *uint64) (position uint64, _ *api.Error) {
	if err := api.CheckStoreName(name); err != nil {
		return 0, err
	}
	for {
		last, err := s.cfg.Store.LastVersion(name)
		if err != nil {
			return 0, api.AsError(err)
		}
		old, aerr := s.entryAt(ctx, name, last)
		if aerr != nil {
			return 0, aerr
		}
		exists := last >= 0 && !old.deleted
		if aerr := checkExpected(name, expected, last, exists); aerr != nil {
			return 0, aerr
		}
		typ, c, aerr := decide(old, exists)
		if aerr != nil {
			return 0, aerr
		}
		data, err := json.Marshal(c)
		if err != nil {
			return 0, api.AsError(err)
		}
		res, aerr := s.cfg.Store.Append(&stores.Append{Stream: name, Expected: last, Events: []api.NewEvent{{Type: typ, Data: data}}})
		switch {
		case aerr == nil:
			*version = res.Version
			return res.Position, nil
		case errors.Is(aerr, api.ErrWrongVersion) && ctx.Err() == nil:
			continue
		}
		return 0, aerr
	}
}

// entryAt returns the projection's entry of the name once it has reached the version.
func (s *Service) entryAt(ctx context.Context, name string, version int64) (entry, *api.Error) {
	var e entry
	if version < 0 {
		return e, nil
	}
	err := s.waitFor(ctx, func() bool {
		var ok bool
		e, ok = s.view.entries[name]
		return ok && e.record.Version >= uint64(version)
	})
	return e, err
}

func checkExpected(name string, expected *int64, last int64, exists bool) *api.Error {
	actual := last
	if !exists {
		actual = api.ExpectNoStream
	}
	want := api.ExpectAny
	if expected != nil {
		want = *expected
	}
	ok := false
	switch want {
	case api.ExpectAny:
		ok = true
	case api.ExpectExists:
		ok = exists
	default:
		ok = want == actual
	}
	if ok {
		return nil
	}
	e := api.ErrWrongVersion.With("the record of store %s is at version %d, not %d; -1 means that it does not exist", name, actual, want)
	e.ActualVersion = &actual
	return e
}

// Describe turns an event of the config store into what is published about it.
func Describe(e api.Event) (*api.ConfigEvent, error) { return describe(e) }

package fsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/quorate/quorate/api"
)

// Durable subscriptions: how far the consumers of a store's events have come. What is delivered and not acknowledged yet only the leader knows; here is what must
// not be lost with it. The commands, behind an op byte:
//
//	create    name (text) · time (varint, Unix µs) · config (bytes, JSON as the leader encodes it)                        op 1
//	delete    name                                                                                                       op 2
//	progress  name · id (uvarint) · time · floor (uvarint) · acked (positions) · attempts (uvarint) · attempt… · parked (uvarint) · park…     op 3
//	replay    name · time · positions (none: all)                                                                        op 4
//	attempt   distance from the one before (uvarint) · how often it was delivered in vain (uvarint)
//	park      attempt · reason (text)
//
// and the keys:
//
//	u                     the last id that was given (uvarint)
//	u name                id · time of creation · config
//	w name                id · floor · events acknowledged so far · parked now · done (positions) · again (positions) · attempts (uvarint) · attempt…
//	p name 00 position    attempts (uvarint) · time (varint) · reason (text)
//
// Every subscription that is created gets an id of its own: what was meant for an earlier one of the name is refused.
const (
	keySubscription = 'u'
	keyProgress     = 'w'
	keyParked       = 'p'

	opCreate   = 1
	opDelete   = 2
	opProgress = 3
	opReplay   = 4
)

// MaxDone bounds the events above the floor that are acknowledged, and those that are delivered again.
const MaxDone = 1 << 15

// Subscription is a subscription as the state has it.
type Subscription struct {
	Name    string
	ID      uint64
	Created time.Time
	Config  api.SubscriptionConfig
	Progress
	LastPosition uint64 // of the store
}

// Progress is how far a subscription has come. Of what the filter selects, everything is done that lies at the floor or below, or in Done, but what is in Again.
type Progress struct {
	Floor    uint64
	Acked    uint64 // how many events were acknowledged
	Parked   uint64 // how many are parked now
	Done     []uint64
	Again    []uint64 // were parked, and are to be delivered again
	Attempts []Attempt
}

// Attempt says how often an event that is not done was delivered in vain.
type Attempt struct {
	Position uint64
	N        int
}

// Park gives an event up.
type Park struct {
	Attempt
	Reason string
}

// SubscriptionCreate creates a subscription. It answers a SubscriptionCreated.
type SubscriptionCreate struct {
	Name   string
	Time   int64 // Unix microseconds at the leader
	Config []byte
}

// SubscriptionCreated is the subscription, and whether the command created it.
type SubscriptionCreated struct {
	Created bool
	Subscription
}

// SubscriptionDelete deletes a subscription and what it parked. It answers whether it was there.
type SubscriptionDelete struct{ Name string }

// SubscriptionProgress says what became of events. Doing it twice changes nothing. It answers the floor.
type SubscriptionProgress struct {
	Name     string
	ID       uint64
	Time     int64
	Floor    uint64 // everything up to here is done, or the filter does not select it
	Acked    []uint64
	Attempts []Attempt
	Parked   []Park
}

// SubscriptionReplay has parked events delivered again. It answers their positions: as many as may be in Again at a time.
type SubscriptionReplay struct {
	Name      string
	Positions []uint64 // nil: all
}

// Kind implements Change.
func (c *SubscriptionCreate) Kind() int   { return kindSubscription }
func (c *SubscriptionDelete) Kind() int   { return kindSubscription }
func (c *SubscriptionProgress) Kind() int { return kindSubscription }
func (c *SubscriptionReplay) Kind() int   { return kindSubscription }

func (c *SubscriptionCreate) encode(b []byte) []byte {
	b = appendBytes(append(b, opCreate), c.Name)
	b = binary.AppendVarint(b, c.Time)
	return appendBytes(b, c.Config)
}

func (c *SubscriptionDelete) encode(b []byte) []byte { return appendBytes(append(b, opDelete), c.Name) }

func (c *SubscriptionProgress) encode(b []byte) []byte {
	b = appendBytes(append(b, opProgress), c.Name)
	b = binary.AppendUvarint(b, c.ID)
	b = binary.AppendVarint(b, c.Time)
	b = binary.AppendUvarint(b, c.Floor)
	b = positions(c.Acked).encode(b)
	b = encodeAttempts(b, c.Attempts)
	b = binary.AppendUvarint(b, uint64(len(c.Parked)))
	before := uint64(0)
	for _, p := range c.Parked {
		b = p.encode(b, before)
		b = appendBytes(b, p.Reason)
		before = p.Position
	}
	return b
}

func (c *SubscriptionReplay) encode(b []byte) []byte {
	return positions(c.Positions).encode(appendBytes(append(b, opReplay), c.Name))
}

func (a *Attempt) encode(b []byte, before uint64) []byte {
	b = binary.AppendUvarint(b, a.Position-before)
	return binary.AppendUvarint(b, uint64(a.N))
}

func encodeAttempts(b []byte, attempts []Attempt) []byte {
	b = binary.AppendUvarint(b, uint64(len(attempts)))
	before := uint64(0)
	for i := range attempts {
		b = attempts[i].encode(b, before)
		before = attempts[i].Position
	}
	return b
}

func (r *reader) attempt(before uint64) Attempt {
	a := Attempt{Position: r.after(before)}
	n := r.uvarint()
	if n > 1<<30 {
		r.fail()
	}
	a.N = int(n)
	return a
}

func (r *reader) attempts() []Attempt {
	var attempts []Attempt
	before := uint64(0)
	for range r.count(2) {
		a := r.attempt(before)
		attempts, before = append(attempts, a), a.Position
	}
	return attempts
}

func decodeSubscriptionChange(r *reader) Change {
	op, name := r.byte(), r.text()
	switch op {
	case opCreate:
		return &SubscriptionCreate{Name: name, Time: r.varint(), Config: r.bytes()}
	case opDelete:
		return &SubscriptionDelete{Name: name}
	case opProgress:
		c := &SubscriptionProgress{Name: name, ID: r.uvarint(), Time: r.varint(), Floor: r.uvarint(), Acked: r.positions(), Attempts: r.attempts()}
		before := uint64(0)
		for range r.count(3) {
			p := Park{Attempt: r.attempt(before), Reason: r.text()}
			c.Parked, before = append(c.Parked, p), p.Position
		}
		return c
	case opReplay:
		return &SubscriptionReplay{Name: name, Positions: r.positions()}
	}
	r.fail()
	return &SubscriptionDelete{}
}

func subscriptionKey(name string) string { return string(rune(keySubscription)) + name }
func progressKey(name string) string     { return string(rune(keyProgress)) + name }
func parkedPrefix(name string) string    { return string(rune(keyParked)) + name + "\x00" }

func parkedKey(name string, position uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(parkedPrefix(name)), position))
}

func (c *SubscriptionCreate) apply(a *applier) (any, *api.Error, error) {
	if err := api.CheckSubscriptionName(c.Name); err != nil {
		return nil, err, nil
	}
	var config api.SubscriptionConfig
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return nil, api.ErrBadRequest.With("the config of subscription %s cannot be read: %v", c.Name, err), nil
	}
	v, err := a.view(true)
	if err != nil {
		return nil, nil, err
	}
	there, err := v.subscription(c.Name)
	if err != nil {
		return nil, nil, err
	}
	if there != nil {
		if !bytes.Equal(there.config, c.Config) {
			return nil, api.ErrSubscriptionExists.With("there is a subscription %s with another config, and a config never changes; choose another name, or delete it first", c.Name), nil
		}
		return SubscriptionCreated{Subscription: there.Subscription}, nil, nil
	}
	floor := config.After
	if config.FromEnd {
		floor = a.st.position
	}
	if floor > a.st.position {
		return nil, api.ErrBadRequest.With("after is %d, and the store's last event has position %d; use from_end to begin with what comes", floor, a.st.position), nil
	}
	n := 0
	err = a.scanKeys(subscriptionKey(""), "", func(key string, _ []byte) (bool, error) {
		if len(key) > 1 {
			n++
		}
		return n < api.MaxSubscriptions, nil
	})
	if err != nil {
		return nil, nil, err
	}
	if n >= api.MaxSubscriptions {
		return nil, api.ErrTooLarge.With("the store has %d subscriptions; no more are possible; delete some", n), nil
	}
	id, err := a.nextSubscription()
	if err != nil {
		return nil, nil, err
	}
	value := binary.AppendUvarint(nil, id)
	value = binary.AppendVarint(value, c.Time)
	if err := a.putKey(subscriptionKey(c.Name), appendBytes(value, c.Config)); err != nil {
		return nil, nil, err
	}
	s := Subscription{Name: string([]byte(c.Name)), ID: id, Created: time.UnixMicro(c.Time).UTC(), Config: config, Progress: Progress{Floor: floor}, LastPosition: a.st.position}
	return SubscriptionCreated{Created: true, Subscription: s}, nil, a.putProgress(c.Name, id, &s.Progress)
}

// nextSubscription returns an id that none had before.
func (a *applier) nextSubscription() (uint64, error) {
	value, err := a.key(subscriptionKey(""))
	if err != nil {
		return 0, err
	}
	id := uint64(0)
	if value != nil {
		r := reader{rest: value}
		if id = r.uvarint(); r.end() != nil {
			return 0, fmt.Errorf("%w: ids of subscriptions: %w", ErrDamaged, r.end())
		}
	}
	return id + 1, a.putKey(subscriptionKey(""), binary.AppendUvarint(nil, id+1))
}

func (c *SubscriptionDelete) apply(a *applier) (any, *api.Error, error) {
	if err := api.CheckSubscriptionName(c.Name); err != nil { // the key without a name is not a subscription's
		return nil, err, nil
	}
	was, err := a.dropKey(subscriptionKey(c.Name))
	if err != nil || !was {
		return false, nil, err
	}
	if _, err := a.dropKey(progressKey(c.Name)); err != nil {
		return false, nil, err
	}
	_, err = a.dropKeys(parkedPrefix(c.Name), "", 0)
	return true, nil, err
}

func (c *SubscriptionProgress) apply(a *applier) (any, *api.Error, error) {
	id, p, refused, err := a.progress(c.Name)
	if refused != nil || err != nil {
		return nil, refused, err
	}
	if id != c.ID {
		return nil, api.ErrSubscriptionNotFound.With("subscription %s was deleted and created again", c.Name), nil
	}
	if n := len(p.Done) + len(p.Attempts) + len(c.Acked) + len(c.Parked) + len(c.Attempts); n > 2*MaxDone {
		return nil, api.ErrTooLarge.With("subscription %s has %d events above its floor; at most %d are possible", c.Name, n, 2*MaxDone), nil
	}
	acked := p.open(c.Acked, a.st.position)
	p.Acked += uint64(len(acked))
	p.finish(acked)
	var parked positions
	for _, k := range c.Parked {
		if len(p.open([]uint64{k.Position}, a.st.position)) == 0 {
			continue
		}
		value := binary.AppendUvarint(nil, uint64(k.N))
		value = binary.AppendVarint(value, c.Time)
		key := parkedKey(c.Name, k.Position)
		was, err := a.key(key)
		if err != nil {
			return nil, nil, err
		}
		if was == nil {
			p.Parked++
		}
		if err := a.putKey(key, appendBytes(value, k.Reason)); err != nil {
			return nil, nil, err
		}
		parked = append(parked, k.Position)
	}
	p.finish(parked)
	p.tried(c.Attempts, a.st.position)
	p.rise(min(c.Floor, a.st.position))
	return p.Floor, nil, a.putProgress(c.Name, id, p)
}

// open returns those of the positions, which are ascending, that wait to be done.
func (p *Progress) open(of []uint64, last uint64) positions {
	var open positions
	for _, position := range of {
		if positions(p.Again).has(position) || position > p.Floor && position <= last && !positions(p.Done).has(position) {
			open = append(open, position)
		}
	}
	return open
}

// finish marks positions as done.
func (p *Progress) finish(of positions) {
	if len(of) == 0 {
		return
	}
	p.Done = positions(p.Done).with(of.above(p.Floor))
	p.Again = positions(p.Again).without(of)
	p.Attempts = slices.DeleteFunc(p.Attempts, func(a Attempt) bool { return of.has(a.Position) })
}

// tried notes how often events were delivered in vain.
func (p *Progress) tried(attempts []Attempt, last uint64) {
	for _, a := range attempts {
		if len(p.open([]uint64{a.Position}, last)) == 0 {
			continue
		}
		i, found := slices.BinarySearchFunc(p.Attempts, a.Position, func(a Attempt, position uint64) int { return cmp.Compare(a.Position, position) })
		if found {
			p.Attempts[i].N = a.N
		} else {
			p.Attempts = slices.Insert(p.Attempts, i, a)
		}
	}
}

// rise moves the floor up.
func (p *Progress) rise(floor uint64) {
	if floor <= p.Floor {
		return
	}
	p.Floor = floor
	p.Done = positions(p.Done).above(floor)
	p.Attempts = slices.DeleteFunc(p.Attempts, func(a Attempt) bool { return a.Position <= floor && !positions(p.Again).has(a.Position) })
}

func (c *SubscriptionReplay) apply(a *applier) (any, *api.Error, error) {
	id, p, refused, err := a.progress(c.Name)
	if refused != nil || err != nil {
		return nil, refused, err
	}
	var moved positions
	take := func(position uint64) bool {
		moved = append(moved, position)
		return len(p.Again)+len(moved) < api.MaxFetch
	}
	if len(p.Again) < api.MaxFetch {
		if c.Positions == nil {
			err = a.scanKeys(parkedPrefix(c.Name), "", func(key string, _ []byte) (bool, error) { return take(parkedPosition(key)), nil })
		} else {
			err = a.parkedAmong(c, take)
		}
	}
	for _, position := range moved {
		if err != nil {
			return nil, nil, err
		}
		_, err = a.dropKey(parkedKey(c.Name, position))
	}
	if err != nil {
		return nil, nil, err
	}
	p.Parked -= min(p.Parked, uint64(len(moved)))
	p.Again = positions(p.Again).with(moved)
	return []uint64(moved), nil, a.putProgress(c.Name, id, p)
}

// parkedAmong calls take with those of the positions that are parked, until it returns false.
func (a *applier) parkedAmong(c *SubscriptionReplay, take func(uint64) bool) error {
	for _, position := range c.Positions {
		value, err := a.key(parkedKey(c.Name, position))
		if err != nil {
			return err
		}
		if value != nil && !take(position) {
			return nil
		}
	}
	return nil
}

func parkedPosition(key string) uint64 { return binary.BigEndian.Uint64([]byte(key[len(key)-8:])) }

func (a *applier) progress(name string) (id uint64, p *Progress, refused *api.Error, err error) {
	value, err := a.key(progressKey(name))
	if err != nil {
		return 0, nil, nil, err
	}
	if value == nil {
		return 0, nil, noSubscription(name), nil
	}
	p = new(Progress)
	id, err = p.decode(name, value)
	return id, p, nil, err
}

func noSubscription(name string) *api.Error {
	return api.ErrSubscriptionNotFound.With("there is no subscription %s; create it with write.subscription.create.%s", name, name)
}

func (a *applier) putProgress(name string, id uint64, p *Progress) error {
	b := binary.AppendUvarint(nil, id)
	b = binary.AppendUvarint(b, p.Floor)
	b = binary.AppendUvarint(b, p.Acked)
	b = binary.AppendUvarint(b, p.Parked)
	b = positions(p.Done).encode(b)
	b = positions(p.Again).encode(b)
	return a.putKey(progressKey(name), encodeAttempts(b, p.Attempts))
}

// decode copies what it keeps.
func (p *Progress) decode(name string, value []byte) (id uint64, err error) {
	r := reader{rest: value}
	id, p.Floor, p.Acked, p.Parked = r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint()
	p.Done, p.Again, p.Attempts = r.positions(), r.positions(), r.attempts()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("%w: progress of subscription %s: %w", ErrDamaged, name, err)
	}
	return id, nil
}

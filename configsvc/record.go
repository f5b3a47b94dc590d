package configsvc

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

// Types of the events a record's stream is made of.
const (
	eventCreated = "StoreCreated"
	eventUpdated = "StoreUpdated"
	eventDeleted = "StoreDeleted"
)

// change is the data of all three. A deletion repeats the incarnation it ends.
type change struct {
	Incarnation uint64           `json:"incarnation"`
	Members     []string         `json:"members,omitempty"`
	Options     api.StoreOptions `json:"options"`
}

// entry is what the projection knows of a name: its record, or that it is gone. A name that was deleted keeps its stream, so versions and incarnations go on.
type entry struct {
	record  api.StoreRecord
	deleted bool
}

// projection is all entries at one position of the config store.
type projection struct {
	entries  map[string]entry
	position uint64
}

func newProjection() *projection { return &projection{entries: make(map[string]entry)} }

// apply is a pure function of projection and event.
func (p *projection) apply(e api.Event) error {
	var c change
	if err := json.Unmarshal(e.Data, &c); err != nil {
		return fmt.Errorf("config event %d of %s: %w", e.Position, e.Stream, err)
	}
	r := p.entries[e.Stream].record
	r.Version, r.Updated = e.Version, e.Time
	switch e.Type {
	case eventCreated:
		r = api.StoreRecord{
			Store: e.Stream, ID: e.Position, Version: e.Version, Incarnation: c.Incarnation,
			Options: c.Options, Members: c.Members, Created: e.Time, Updated: e.Time,
		}
	case eventUpdated:
		r.Options, r.Members = c.Options, c.Members
	case eventDeleted:
	default:
		return fmt.Errorf("config event %d of %s has the unknown type %q: this node needs a newer version", e.Position, e.Stream, e.Type)
	}
	p.entries[e.Stream] = entry{record: r, deleted: e.Type == eventDeleted}
	p.position = e.Position
	return nil
}

// describe turns an event of the config store into what is published about it.
func describe(e api.Event) (*api.ConfigEvent, error) {
	var c change
	if err := json.Unmarshal(e.Data, &c); err != nil {
		return nil, err
	}
	return &api.ConfigEvent{
		Type: api.TypeConfigEvent, ID: e.ID, Time: e.Time, Kind: strings.ToLower(strings.TrimPrefix(e.Type, "Store")),
		Store: e.Stream, Version: e.Version, Incarnation: c.Incarnation,
	}, nil
}

// get returns the record of a store that exists.
func (p *projection) get(name string) (api.StoreRecord, bool) {
	e, ok := p.entries[name]
	return e.record, ok && !e.deleted
}

// list returns the records of all stores that exist, in name order.
func (p *projection) list() []api.StoreRecord {
	list := make([]api.StoreRecord, 0, len(p.entries))
	for _, name := range slices.Sorted(maps.Keys(p.entries)) {
		if r, ok := p.get(name); ok {
			list = append(list, r)
		}
	}
	return list
}

// specs returns what the member with the server id has to have open.
func (p *projection) specs(serverID string) []stores.Spec {
	var specs []stores.Spec
	for _, r := range p.list() {
		if slices.Contains(r.Members, serverID) {
			specs = append(specs, stores.Spec{Name: r.Store, ID: r.ID, Incarnation: r.Incarnation, Members: r.Members, Limits: r.Options.Limits})
		}
	}
	return specs
}

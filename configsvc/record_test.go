package configsvc

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/stores"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// event is the next event of a record's stream, an hour a position.
func event(position, version uint64, store, typ string, c change) api.Event {
	data, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return api.Event{Position: position, Stream: store, Version: version, Type: typ, Data: data, Time: noon.Add(time.Duration(position) * time.Hour)}
}

func at(position int) time.Time { return noon.Add(time.Duration(position) * time.Hour) }

func TestProjection(t *testing.T) {
	three, two := []string{"n1~a", "n2~b", "n3~c"}, []string{"n1~a", "n2~b"}
	created := event(1, 0, "orders", eventCreated, change{Incarnation: 1, Members: three, Options: api.StoreOptions{Description: "d"}})
	updated := event(2, 1, "orders", eventUpdated, change{Incarnation: 1, Members: two, Options: api.StoreOptions{Description: "e"}})
	deleted := event(3, 2, "orders", eventDeleted, change{Incarnation: 1})
	again := event(4, 3, "orders", eventCreated, change{Incarnation: 2, Members: three})
	rows := []struct {
		name   string
		events []api.Event
		list   []api.StoreRecord
		gone   entry // of orders, when it is deleted
		specs  []stores.Spec
	}{
		{"nothing", nil, []api.StoreRecord{}, entry{}, nil},
		{"created", []api.Event{created},
			[]api.StoreRecord{{Store: "orders", ID: 1, Version: 0, Incarnation: 1, Options: api.StoreOptions{Description: "d"}, Members: three, Created: at(1), Updated: at(1)}},
			entry{}, []stores.Spec{{Name: "orders", ID: 1, Incarnation: 1, Members: three}}},
		{"an update keeps id, incarnation and time of creation", []api.Event{created, updated},
			[]api.StoreRecord{{Store: "orders", ID: 1, Version: 1, Incarnation: 1, Options: api.StoreOptions{Description: "e"}, Members: two, Created: at(1), Updated: at(2)}},
			entry{}, nil},
		{"deleted", []api.Event{created, updated, deleted}, []api.StoreRecord{},
			entry{deleted: true, record: api.StoreRecord{Store: "orders", ID: 1, Version: 2, Incarnation: 1, Options: api.StoreOptions{Description: "e"}, Members: two, Created: at(1), Updated: at(3)}}, nil},
		{"created again: another id, the next incarnation, the version goes on", []api.Event{created, updated, deleted, again},
			[]api.StoreRecord{{Store: "orders", ID: 4, Version: 3, Incarnation: 2, Members: three, Created: at(4), Updated: at(4)}},
			entry{}, []stores.Spec{{Name: "orders", ID: 4, Incarnation: 2, Members: three}}},
		{"in name order", []api.Event{
			event(1, 0, "b", eventCreated, change{Incarnation: 1, Members: three}), event(2, 0, "a", eventCreated, change{Incarnation: 1, Members: three}),
		}, []api.StoreRecord{
			{Store: "a", ID: 2, Incarnation: 1, Members: three, Created: at(2), Updated: at(2)},
			{Store: "b", ID: 1, Incarnation: 1, Members: three, Created: at(1), Updated: at(1)},
		}, entry{}, []stores.Spec{{Name: "a", ID: 2, Incarnation: 1, Members: three}, {Name: "b", ID: 1, Incarnation: 1, Members: three}}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			p := newProjection()
			for _, e := range r.events {
				if err := p.apply(e); err != nil {
					t.Fatal(err)
				}
			}
			if got := p.list(); !reflect.DeepEqual(got, r.list) {
				t.Errorf("got  %+v\nwant %+v", got, r.list)
			}
			if got := p.specs("n3~c"); !reflect.DeepEqual(got, r.specs) {
				t.Errorf("n3 opens %+v, want %+v", got, r.specs)
			}
			if got := p.specs("n3~other"); got != nil {
				t.Errorf("another disk opens %+v", got)
			}
			if r.gone.deleted {
				if got := p.entries["orders"]; !reflect.DeepEqual(got, r.gone) {
					t.Errorf("got  %+v\nwant %+v", got, r.gone)
				}
				if _, ok := p.get("orders"); ok {
					t.Error("a deleted store is there")
				}
			}
			if n := uint64(len(r.events)); p.position != n {
				t.Errorf("position %d, want %d", p.position, n)
			}
		})
	}
}

func TestProjectionRefusesWhatItDoesNotUnderstand(t *testing.T) {
	created := event(1, 0, "orders", eventCreated, change{Incarnation: 1})
	rows := map[string]struct {
		event api.Event
		want  string
	}{
		"a type of a newer version": {event(2, 1, "orders", "StoreRenamed", change{}), `unknown type "StoreRenamed"`},
		"data that is not JSON":     {api.Event{Position: 2, Stream: "orders", Type: eventUpdated, Data: []byte("{")}, "config event 2 of orders"},
		"no data":                   {api.Event{Position: 2, Stream: "orders", Type: eventDeleted}, "config event 2 of orders"},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			p := newProjection()
			if err := p.apply(created); err != nil {
				t.Fatal(err)
			}
			before := p.list()
			if err := p.apply(r.event); err == nil || !strings.Contains(err.Error(), r.want) {
				t.Fatalf("got %v, want %q", err, r.want)
			}
			if p.position != 1 || !reflect.DeepEqual(p.list(), before) {
				t.Errorf("a refused event has changed the projection: %+v", p)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	for typ, kind := range map[string]string{eventCreated: "created", eventUpdated: "updated", eventDeleted: "deleted"} {
		e := event(5, 2, "orders", typ, change{Incarnation: 3})
		e.ID = "id"
		got, err := Describe(e)
		want := &api.ConfigEvent{Type: api.TypeConfigEvent, ID: "id", Time: at(5), Kind: kind, Store: "orders", Version: 2, Incarnation: 3}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestCheckExpected(t *testing.T) {
	v := func(n int64) *int64 { return &n }
	rows := []struct {
		name     string
		expected *int64
		last     int64
		exists   bool
		actual   int64 // of the refusal; -9: allowed
	}{
		{"no expectation, new", nil, -1, false, -9},
		{"any, there", v(api.ExpectAny), 3, true, -9},
		{"must not exist, new", v(api.ExpectNoStream), -1, false, -9},
		{"must not exist, deleted", v(api.ExpectNoStream), 3, false, -9},
		{"must not exist, there", v(api.ExpectNoStream), 3, true, 3},
		{"must exist, there", v(api.ExpectExists), 3, true, -9},
		{"must exist, new", v(api.ExpectExists), -1, false, -1},
		{"must exist, deleted", v(api.ExpectExists), 3, false, -1},
		{"exact", v(3), 3, true, -9},
		{"exact, behind", v(2), 3, true, 3},
		{"exact, of a deleted record", v(3), 3, false, -1},
		{"a number that means nothing", v(-3), 3, true, 3},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			err := checkExpected("orders", r.expected, r.last, r.exists)
			if r.actual == -9 {
				if err != nil {
					t.Fatalf("got %v, want it allowed", err)
				}
				return
			}
			if err == nil || err.ErrCode != api.ErrWrongVersion.ErrCode || err.ActualVersion == nil || *err.ActualVersion != r.actual {
				t.Fatalf("got %+v, want wrong_expected_version at %d", err, r.actual)
			}
		})
	}
}

package api

import (
	"errors"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	long := strings.Repeat
	checks := map[string]func(string) *Error{
		"store": CheckStoreName, "node": CheckNodeName, "stream": CheckStreamName, "id": CheckEventID, "type": CheckEventType, "tag": CheckTag, "prefix": CheckPrefix,
	}
	rows := []struct {
		name, check, in string
		want            *Error // nil: allowed
	}{
		{"store plain", "store", "orders", nil},
		{"store all classes of characters", "store", "aZ0_-", nil},
		{"store longest", "store", long("a", MaxStoreName), nil},
		{"store too long", "store", long("a", MaxStoreName+1), ErrBadName},
		{"store empty", "store", "", ErrBadName},
		{"store dot", "store", "a.b", ErrBadName},
		{"store wildcard", "store", "*", ErrBadName},
		{"store tail wildcard", "store", ">", ErrBadName},
		{"store umlaut", "store", "ä", ErrBadName},
		{"store space", "store", "a b", ErrBadName},
		{"store slash would leave the directory", "store", "../x", ErrBadName},
		{"store newline", "store", "a\n", ErrBadName},
		{"store nul", "store", "a\x00", ErrBadName},
		{"store config is reserved", "store", ConfigStore, ErrReservedName},
		{"store cluster is reserved", "store", ClusterStore, ErrReservedName},
		{"store Config is another name", "store", "Config", nil},

		{"node plain", "node", "n1", nil},
		{"node may be called config", "node", "config", nil},
		{"node tilde separates the disk", "node", "n~1", ErrBadName},
		{"node empty", "node", "", ErrBadName},

		{"stream plain", "stream", "order-42", nil},
		{"stream tokens", "stream", "order.42.lines", nil},
		{"stream UTF-8", "stream", "bestellung-ä-日", nil},
		{"stream longest", "stream", long("s", MaxStreamName), nil},
		{"stream too long", "stream", long("s", MaxStreamName+1), ErrBadName},
		{"stream limit counts bytes", "stream", long("ä", MaxStreamName/2+1), ErrBadName},
		{"stream empty", "stream", "", ErrBadName},
		{"stream leading dot", "stream", ".a", ErrBadName},
		{"stream trailing dot", "stream", "a.", ErrBadName},
		{"stream two dots", "stream", "a..b", ErrBadName},
		{"stream only a dot", "stream", ".", ErrBadName},
		{"stream wildcard", "stream", "a.*", ErrBadName},
		{"stream wildcard in a token", "stream", "a*b", ErrBadName},
		{"stream tail wildcard", "stream", "a.>", ErrBadName},
		{"stream space", "stream", "a b", ErrBadName},
		{"stream tab", "stream", "a\tb", ErrBadName},
		{"stream newline", "stream", "a\nb", ErrBadName},
		{"stream carriage return", "stream", "a\rb", ErrBadName},
		{"stream nul", "stream", "a\x00b", ErrBadName},
		{"stream delete", "stream", "a\x7fb", ErrBadName},
		{"stream C1 control", "stream", "a\u0085b", ErrBadName},
		{"stream not UTF-8", "stream", "a\xffb", ErrBadName},

		{"id may hold spaces and dots", "id", "a b..c>*", nil},
		{"id longest", "id", long("i", MaxEventID), nil},
		{"id too long", "id", long("i", MaxEventID+1), ErrBadName},
		{"id empty", "id", "", ErrBadName},
		{"id control", "id", "a\x1fb", ErrBadName},
		{"id not UTF-8", "id", "\xc3", ErrBadName},

		{"type plain", "type", "OrderPlaced", nil},
		{"type empty", "type", "", ErrBadName},
		{"type too long", "type", long("t", MaxEventType+1), ErrBadName},
		{"type newline would split a header", "type", "a\r\nb", ErrBadName},

		{"tag plain", "tag", "customer:7", nil},
		{"tag comma", "tag", "a,b", ErrBadName},
		{"tag empty", "tag", "", ErrBadName},
		{"tag longest", "tag", long("t", MaxTag), nil},
		{"tag too long", "tag", long("t", MaxTag+1), ErrBadName},
		{"tag newline", "tag", "a\nb", ErrBadName},

		{"prefix default", "prefix", DefaultPrefix, nil},
		{"prefix of two tokens", "prefix", "prod.es", nil},
		{"prefix empty", "prefix", "", ErrBadName},
		{"prefix with an empty token", "prefix", "a..b", ErrBadName},
		{"prefix wildcard", "prefix", "a.*", ErrBadName},
		{"prefix ends in a dot", "prefix", "es.", ErrBadName},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := checks[r.check](r.in)
			switch {
			case r.want == nil && got != nil:
				t.Fatalf("got %v, want it allowed", got)
			case r.want != nil && got == nil:
				t.Fatalf("got it allowed, want %s", r.want.Name)
			case r.want != nil && !errors.Is(got, r.want):
				t.Fatalf("got %v, want %s", got, r.want.Name)
			}
		})
	}
}

func TestNewEventCheck(t *testing.T) {
	ok := func(change func(e *NewEvent)) NewEvent {
		e := NewEvent{ID: "1", Type: "T", Data: []byte(`{}`)}
		if change != nil {
			change(&e)
		}
		return e
	}
	rows := []struct {
		name  string
		event NewEvent
		want  *Error
		text  string
	}{
		{"plain", ok(nil), nil, ""},
		{"without id", ok(func(e *NewEvent) { e.ID = "" }), nil, ""},
		{"without data", ok(func(e *NewEvent) { e.Data = nil }), nil, ""},
		{"base64 only", ok(func(e *NewEvent) { e.Data, e.DataBase64 = nil, []byte{1} }), nil, ""},
		{"both forms of data", ok(func(e *NewEvent) { e.DataBase64 = []byte{1} }), ErrBadRequest, "data and data_base64"},
		{"without type", ok(func(e *NewEvent) { e.Type = "" }), ErrBadName, "event type"},
		{"bad id", ok(func(e *NewEvent) { e.ID = "\n" }), ErrBadName, "event id"},
		{"most tags", ok(func(e *NewEvent) { e.Tags = tags(MaxTags) }), nil, ""},
		{"too many tags", ok(func(e *NewEvent) { e.Tags = tags(MaxTags + 1) }), ErrBadRequest, "65 tags"},
		{"bad tag", ok(func(e *NewEvent) { e.Tags = []string{"a,b"} }), ErrBadName, "comma"},
		{"metadata object", ok(func(e *NewEvent) { e.Metadata = []byte(" \n{}") }), nil, ""},
		{"metadata array", ok(func(e *NewEvent) { e.Metadata = []byte("[]") }), ErrBadRequest, "metadata"},
		{"metadata text", ok(func(e *NewEvent) { e.Metadata = []byte(`"x"`) }), ErrBadRequest, "metadata"},
		{"largest data", ok(func(e *NewEvent) { e.Data = make([]byte, MaxEventData) }), nil, ""},
		{"data and metadata count together", ok(func(e *NewEvent) { e.Data, e.Metadata = make([]byte, MaxEventData-1), []byte("{}") }), ErrTooLarge, "1048577 bytes"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got := r.event.Check(3)
			if r.want == nil {
				if got != nil {
					t.Fatalf("got %v, want it allowed", got)
				}
				return
			}
			if got == nil || !errors.Is(got, r.want) {
				t.Fatalf("got %v, want %s", got, r.want.Name)
			}
			if !strings.Contains(got.Description, "events[3]: ") || !strings.Contains(got.Description, r.text) {
				t.Fatalf("got %q, want it to say events[3] and %q", got.Description, r.text)
			}
		})
	}
}

func tags(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = "t"
	}
	return list
}

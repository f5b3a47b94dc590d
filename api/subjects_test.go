package api

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	rows := []struct {
		name    string
		prefix  string
		subject string
		got     Subject
		want    *Error
	}{
		{"with a name", "", "es.orders.write.append.order-42", Subject{"orders", "write", "append", "order-42"}, nil},
		{"name with dots", "", "es.orders.read.stream.a.b.c", Subject{"orders", "read", "stream", "a.b.c"}, nil},
		{"a verb of two tokens", "", "es.orders.write.subscription.create.mail", Subject{"orders", "write", "subscription.create", "mail"}, nil},
		{"the same without a name", "", "es.orders.write.subscription.fetch", Subject{"orders", "write", "subscription.fetch", ""}, nil},
		{"half of it", "", "es.orders.write.subscription", Subject{"orders", "write", "subscription", ""}, nil},
		{"its second token is no verb", "", "es.orders.write.subscription.*.mail", Subject{}, ErrBadSubject},
		{"a trailing dot behind it", "", "es.orders.write.subscription.fetch.", Subject{}, ErrBadSubject},
		{"read has no such verbs", "", "es.orders.read.subscription.mail", Subject{"orders", "read", "subscription", "mail"}, nil},
		{"without a name", "", "es.cluster.read.info", Subject{"cluster", "read", "info", ""}, nil},
		{"event", "", "es.orders.event.order-42", Subject{"orders", "event", "order-42", ""}, nil},
		{"prefix of two tokens", "prod.es", "prod.es.orders.read.info", Subject{"orders", "read", "info", ""}, nil},
		{"the name is for the handler to check", "", "es.orders.write.append.a..*", Subject{"orders", "write", "append", "a..*"}, nil},
		{"another prefix", "", "ex.orders.read.info", Subject{}, ErrBadSubject},
		{"prefix without its dot", "", "esx.orders.read.info", Subject{}, ErrBadSubject},
		{"empty", "", "", Subject{}, ErrBadSubject},
		{"only the prefix", "", "es.", Subject{}, ErrBadSubject},
		{"no verb", "", "es.orders.read", Subject{}, ErrBadSubject},
		{"empty verb", "", "es.orders.read.", Subject{}, ErrBadSubject},
		{"empty verb with a name", "", "es.orders.read..x", Subject{}, ErrBadSubject},
		{"trailing dot", "", "es.orders.read.info.", Subject{}, ErrBadSubject},
		{"unknown class", "", "es.orders.delete.all", Subject{}, ErrBadSubject},
		{"wildcard for the class", "", "es.orders.*.append.x", Subject{}, ErrBadSubject},
		{"wildcard for the verb", "", "es.orders.write.*.x", Subject{}, ErrBadSubject},
		{"wildcard for the store", "", "es.*.write.append.x", Subject{}, ErrBadName},
		{"tail wildcard", "", "es.>", Subject{}, ErrBadSubject},
		{"empty store", "", "es..write.append", Subject{}, ErrBadName},
		{"control character in the store", "", "es.a\x01.write.append", Subject{}, ErrBadName},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			got, err := Subjects{Prefix: r.prefix}.Parse(r.subject)
			if r.want != nil {
				if err == nil || !errors.Is(err, r.want) {
					t.Fatalf("got %+v, %v, want %s", got, err, r.want.Name)
				}
				return
			}
			if err != nil || got != r.got {
				t.Fatalf("got %+v, %v, want %+v", got, err, r.got)
			}
		})
	}
}

func TestSubjectsAreMadeAsTheyAreParsed(t *testing.T) {
	var s Subjects
	for got, want := range map[string]string{
		s.Write("orders", "append", "order-42"): "es.orders.write.append.order-42",
		s.Read("orders", "all", ""):             "es.orders.read.all",
		s.Event("orders", "a.b"):                "es.orders.event.a.b",
		s.LeaderEvent("orders"):                 "es.cluster.event.leader.orders",
		s.MemberEvent("n1"):                     "es.cluster.event.member.n1",
		Subjects{Prefix: "x.y"}.Of("a", "b"):    "x.y.a.b",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A subject that is accepted names one store, one class and one verb, and is what the same tokens make again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"es.orders.write.append.order-42", "es.cluster.read.info", "es.*.write.append.x", "es.>", "es..x", "es.a.read.b.", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		var s Subjects
		p, err := s.Parse(subject)
		if err != nil {
			if p != (Subject{}) {
				t.Fatalf("refused, yet got %+v", p)
			}
			return
		}
		if got := s.verb(p.Store, p.Class, p.Verb, p.Name); got != subject {
			t.Fatalf("%+v makes %q, want %q", p, got, subject)
		}
		if checkStoreToken(p.Store) != nil || checkStoreToken(p.Verb) != nil {
			t.Fatalf("accepted %+v", p)
		}
	})
}

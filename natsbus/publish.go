package natsbus

import (
	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/configsvc"
	"github.com/quorate/quorate/stores"
)

// Listens reports whether anybody in the cluster is subscribed to the stream's live events: most of the time nobody is.
func (b *Bus) Listens(s *stores.Store, stream string) bool {
	return s.Name() == api.ConfigStore || b.wanted(b.subjects.Event(s.Name(), stream)) || b.wanted(b.subjects.CloudEvent(s.Name(), stream))
}

func (b *Bus) wanted(subject string) bool { return b.embedded.clients.Interest(subject) > 0 }

// Committed publishes events that were committed while this node leads their store: live, at most once, in position order.
func (b *Bus) Committed(s *stores.Store, events []api.Event) {
	for i := range events {
		e := &events[i]
		if s.Name() == api.ConfigStore {
			if change, err := configsvc.Describe(*e); err == nil {
				b.Publish(b.subjects.Of(api.ConfigStore, api.ClassEvent, e.Stream), change)
			}
			continue
		}
		if subject := b.subjects.Event(s.Name(), e.Stream); b.wanted(subject) {
			b.publishLive(s, e, &nats.Msg{Subject: subject, Data: e.Body(), Header: cloudEventHeaders(b.subjects, s.Name(), e)})
		}
		if subject := b.subjects.CloudEvent(s.Name(), e.Stream); b.wanted(subject) {
			body, err := e.CloudEvent(b.subjects.Source(s.Name()))
			if err != nil {
				b.log.Warn("a live event is no CloudEvent", "store", s.Name(), "position", e.Position, "error", err)
				continue
			}
			b.publishLive(s, e, &nats.Msg{Subject: subject, Data: body, Header: nats.Header{"content-type": {structuredMode}}})
		}
	}
}

func (b *Bus) publishLive(s *stores.Store, e *api.Event, m *nats.Msg) {
	if err := b.clients.PublishMsg(m); err != nil {
		b.log.Warn("a live event was not published", "store", s.Name(), "subject", m.Subject, "position", e.Position, "error", err)
	}
}

// cloudEventHeaders describes an event in CloudEvents' binary mode, and says in the headers of W3C Trace Context, too, what caused it.
func cloudEventHeaders(subjects api.Subjects, store string, e *api.Event) nats.Header {
	attributes := e.CloudAttributes(subjects.Source(store))
	h := make(nats.Header, len(attributes)+len(api.TraceHeaders))
	for name, value := range attributes {
		h["ce-"+name] = []string{value}
	}
	h["content-type"] = h["ce-datacontenttype"]
	delete(h, "ce-datacontenttype")
	for _, name := range api.TraceHeaders {
		if value, ok := attributes[api.ExtensionOf(name)]; ok {
			h[name] = []string{value}
		}
	}
	return h
}

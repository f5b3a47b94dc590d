package natsbus

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/configsvc"
	"github.com/quorate/quorate/stores"
)

// Listens reports whether anybody in the cluster is subscribed to the stream's live events: most of the time nobody is.
func (b *Bus) Listens(s *stores.Store, stream string) bool {
	return s.Name() == api.ConfigStore || b.embedded.clients.Interest(b.subjects.Event(s.Name(), stream)) > 0
}

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
		m := &nats.Msg{Subject: b.subjects.Event(s.Name(), e.Stream), Data: e.Body(), Header: cloudEventHeaders(b.cfg.Server.Prefix, s.Name(), e)}
		if err := b.clients.PublishMsg(m); err != nil {
			b.log.Warn("a live event was not published", "store", s.Name(), "position", e.Position, "error", err)
		}
	}
}

// cloudEventHeaders describes an event in CloudEvents' binary mode. Attributes that came with the event go out as they came in, except those
// that say where it is stored.
func cloudEventHeaders(prefix, store string, e *api.Event) nats.Header {
	h := nats.Header{
		"ce-specversion": {"1.0"},
		"ce-id":          {e.ID},
		"ce-source":      {"/" + prefix + "/" + store},
		"ce-type":        {e.Type},
		"ce-time":        {e.Time.Format(time.RFC3339Nano)},
		"content-type":   {"application/json"},
	}
	if e.Data == nil {
		h["content-type"] = []string{"application/octet-stream"}
	}
	var metadata map[string]any
	if json.Unmarshal(e.Metadata, &metadata) == nil {
		for key, value := range metadata {
			text, ok := value.(string)
			if ok && (strings.HasPrefix(key, "ce-") || key == "content-type") && printable(text) {
				h[key] = []string{text}
			}
		}
	}
	h["ce-subject"] = []string{e.Stream}
	h["ce-version"] = []string{strconv.FormatUint(e.Version, 10)}
	h["ce-position"] = []string{strconv.FormatUint(e.Position, 10)}
	if len(e.Tags) > 0 {
		h["ce-tags"] = []string{strings.Join(e.Tags, ",")}
	}
	return h
}

// printable keeps line breaks out of headers: metadata that came as JSON may hold anything.
func printable(s string) bool { return !strings.ContainsAny(s, "\r\n\x00") }

package client_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// answered returns a client whose requests answer answers instead of a cluster, each in a goroutine of its own; nil: nobody does.
func answered(t *testing.T, prefix string, answer func(nc *nats.Conn, m *nats.Msg) []byte, opts ...client.Option) *client.Client {
	t.Helper()
	nc, err := nats.Connect(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := nc.Subscribe(prefix+".>", func(m *nats.Msg) {
		go func() { // ends with the answer
			if data := answer(nc, m); data != nil {
				m.Respond(data)
			}
		}()
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return client.New(nc, append(opts, client.WithPrefix(prefix))...)
}

// between returns a handle on the store through which every request goes to pass, which sends it on to the cluster when and if it calls send.
func between(t *testing.T, st *client.Store, pass func(m *nats.Msg, send func() []byte) []byte, opts ...client.Option) *client.Store {
	t.Helper()
	prefix := "between-" + st.Name()
	return answered(t, prefix, func(nc *nats.Conn, m *nats.Msg) []byte {
		return pass(m, func() []byte {
			res, err := nc.RequestMsg(&nats.Msg{Subject: api.DefaultPrefix + strings.TrimPrefix(m.Subject, prefix), Data: m.Data, Header: m.Header}, 10*time.Second)
			if err != nil {
				return nil
			}
			return res.Data
		})
	}, opts...).Store(st.Name())
}

// betweenPages returns a handle on the store with which something happens, once, when the first page is read and none behind it is.
func betweenPages(t *testing.T, st *client.Store, something func() error) *client.Store {
	t.Helper()
	var once sync.Once
	return between(t, st, func(m *nats.Msg, send func() []byte) []byte {
		var at struct{ From, After uint64 }
		if err := json.Unmarshal(m.Data, &at); err != nil {
			t.Error(err)
		}
		if at.From > 0 || at.After > 0 {
			once.Do(func() {
				if err := something(); err != nil {
					t.Error(err)
				}
			})
		}
		return send()
	})
}

// reply is what a node would answer.
func reply(t *testing.T, v any) []byte {
	raw, err := api.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return raw
}

// refusal is the answer that the request is refused.
func refusal(t *testing.T, e *api.Error) []byte { return reply(t, api.Reply{Error: e}) }

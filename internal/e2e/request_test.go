package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
)

const requestTimeout = 8 * time.Second

// request sends one plain NATS request, as any client in any language would, and returns the reply or its error.
func request[T any](t testing.TB, nc *nats.Conn, subject, payload string, headers ...string) (*T, *api.Error) {
	t.Helper()
	m := requestMsg(t, nc, subject, payload, headers...)
	var head api.Reply
	if err := json.Unmarshal(m.Data, &head); err != nil {
		t.Fatalf("%s: reply %q: %v", subject, m.Data, err)
	}
	if head.Type == "" {
		t.Errorf("%s: the reply has no type: %s", subject, m.Data)
	}
	if head.Error != nil {
		if got := m.Header.Get(api.HeaderErrorCode); got != fmt.Sprint(head.Error.Code) {
			t.Errorf("%s: header %s is %q, the payload says %d", subject, api.HeaderErrorCode, got, head.Error.Code)
		}
		if m.Header.Get(api.HeaderError) == "" || head.Error.Description == "" {
			t.Errorf("%s: the error says nothing: %s", subject, m.Data)
		}
		return nil, head.Error
	}
	var v T
	if err := json.Unmarshal(m.Data, &v); err != nil {
		t.Fatalf("%s: reply %q: %v", subject, m.Data, err)
	}
	return &v, nil
}

func requestMsg(t testing.TB, nc *nats.Conn, subject, payload string, headers ...string) *nats.Msg {
	t.Helper()
	m := nats.NewMsg(subject)
	m.Data = []byte(payload)
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header.Add(headers[i], headers[i+1])
	}
	reply, err := nc.RequestMsg(m, requestTimeout)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return reply
}

func wantError(got *api.Error, want *api.Error) error {
	if got == nil {
		return fmt.Errorf("there is no error, wanted %s", want.Name)
	}
	if !errors.Is(got, want) {
		return fmt.Errorf("the error is %v, wanted %s", got, want.Name)
	}
	return nil
}

package api

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
)

func TestErrorTable(t *testing.T) {
	codes, names := map[int]string{}, map[string]bool{}
	name := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	for _, e := range Errors() {
		if other, taken := codes[e.ErrCode]; taken {
			t.Errorf("%d is the code of %s and of %s", e.ErrCode, other, e.Name)
		}
		if names[e.Name] {
			t.Errorf("two errors are named %s", e.Name)
		}
		codes[e.ErrCode], names[e.Name] = e.Name, true
		if !name.MatchString(e.Name) || e.Description == "" {
			t.Errorf("%d: name %q, description %q", e.ErrCode, e.Name, e.Description)
		}
		if e.Code < 400 || e.Code > 599 || e.ErrCode < 20400 || e.ErrCode > 20999 {
			t.Errorf("%s: code %d, err_code %d are outside the table's ranges", e.Name, e.Code, e.ErrCode)
		}
		if want := e.Code == 429 || e.Code == 503 || e.Code == 504; e.Retryable() != want {
			t.Errorf("%s: Retryable is %v, want %v", e.Name, e.Retryable(), want)
		}
	}
	if len(codes) < 24 {
		t.Errorf("the table has %d errors; codes are never removed", len(codes))
	}
	Errors()[0] = nil
	if Errors()[0] == nil {
		t.Error("the caller of Errors can change the table")
	}
}

func TestErrorsAreMatchedByCode(t *testing.T) {
	e := ErrNoLeader.With("store %s has none", "orders")
	if !errors.Is(e, ErrNoLeader) || !errors.Is(fmt.Errorf("append: %w", e), ErrNoLeader) {
		t.Error("another description makes it another error")
	}
	if errors.Is(e, ErrNotLeader) || errors.Is(e, errors.New("x")) {
		t.Error("it matches what it is not")
	}
	if ErrNoLeader.Description == e.Description {
		t.Error("With has changed the table")
	}
	if got, want := e.Error(), "no_leader: store orders has none"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAsError(t *testing.T) {
	if AsError(nil) != nil {
		t.Error("nil is an error")
	}
	if got := AsError(fmt.Errorf("append: %w", ErrTimeout)); got != ErrTimeout {
		t.Errorf("got %v, want timeout", got)
	}
	if got := AsError(errors.New("disk on fire")); !errors.Is(got, ErrInternal) || got.Description != "disk on fire" {
		t.Errorf("got %v, want internal: disk on fire", got)
	}
}

package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestQueryItemMatches(t *testing.T) {
	for _, row := range []struct {
		name string
		item QueryItem
		want bool
	}{
		{"nothing asked", QueryItem{}, true},
		{"type", QueryItem{Types: []string{"x", "order.paid"}}, true},
		{"another type", QueryItem{Types: []string{"order"}}, false},
		{"type prefix", QueryItem{TypePrefixes: []string{"x", "order."}}, true},
		{"type or prefix", QueryItem{Types: []string{"x"}, TypePrefixes: []string{"order"}}, true},
		{"neither type nor prefix", QueryItem{Types: []string{"x"}, TypePrefixes: []string{"paid"}}, false},
		{"all tags", QueryItem{Tags: []string{"b", "a"}}, true},
		{"one tag too many", QueryItem{Tags: []string{"a", "c"}}, false},
		{"tag prefix is no tag", QueryItem{Tags: []string{""}}, false},
		{"stream prefix", QueryItem{StreamPrefixes: []string{"x", "order-"}}, true},
		{"another stream", QueryItem{StreamPrefixes: []string{"rder"}}, false},
		{"all of them", QueryItem{Types: []string{"order.paid"}, Tags: []string{"a"}, StreamPrefixes: []string{"o"}}, true},
		{"right type, wrong tag", QueryItem{Types: []string{"order.paid"}, Tags: []string{"c"}}, false},
		{"right tag, wrong stream", QueryItem{Tags: []string{"a"}, StreamPrefixes: []string{"p"}}, false},
	} {
		if got := row.item.Matches("order.paid", []string{"a", "b"}, "order-7"); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
		q := Query{Items: []QueryItem{{Types: []string{"never"}}, row.item}}
		if got := q.Matches("order.paid", []string{"a", "b"}, "order-7"); got != row.want {
			t.Errorf("%s as the second item: %v, want %v", row.name, got, row.want)
		}
	}
}

func TestCheckQueries(t *testing.T) {
	many := func(n int) []string {
		texts := make([]string, n)
		for i := range texts {
			texts[i] = fmt.Sprint("t", i)
		}
		return texts
	}
	n := int64(3)
	query := func(items ...QueryItem) Condition { return Condition{Query: &Query{Items: items}} }
	terms := func(of int) (items []QueryItem) {
		for ; of > 0; of -= MaxItemTerms {
			items = append(items, QueryItem{Types: many(min(of, MaxItemTerms))})
		}
		return items
	}
	for _, row := range []struct {
		name string
		c    Condition
		want *Error // nil: accepted
		says string
	}{
		{"stream", Condition{Stream: "x", Version: &n}, nil, ""},
		{"query", query(QueryItem{Tags: []string{"a"}, StreamPrefixes: []string{"x."}}), nil, ""},
		{"as many terms as may be", query(terms(MaxQueryTerms)...), nil, ""},
		{"one more", query(terms(MaxQueryTerms + 1)...), ErrTooLarge, "513"},
		{"as many types as may be", query(QueryItem{Types: many(MaxItemTerms)}), nil, ""},
		{"too many types", query(QueryItem{Types: many(MaxItemTerms + 1)}), ErrTooLarge, "types has 65"},
		{"too many type prefixes", query(QueryItem{TypePrefixes: many(MaxItemTerms + 1)}), ErrTooLarge, "type_prefixes"},
		{"too many tags", query(QueryItem{Tags: many(MaxTags + 1)}), ErrTooLarge, "tags has"},
		{"too many stream prefixes", query(QueryItem{Tags: []string{"a"}, StreamPrefixes: many(MaxItemTerms + 1)}), ErrTooLarge, "stream_prefixes"},
		{"empty type", query(QueryItem{Types: []string{""}}), ErrBadName, "types[0]"},
		{"empty prefix", query(QueryItem{TypePrefixes: []string{"a", ""}}), ErrBadName, "type_prefixes[1]"},
		{"long tag", query(QueryItem{Tags: []string{strings.Repeat("x", MaxTag+1)}}), ErrBadName, "tags[0]"},
		{"control character in a stream prefix", query(QueryItem{Tags: []string{"a"}, StreamPrefixes: []string{"\x01"}}), ErrBadName, "control"},
		{"bad stream", Condition{Stream: "a b", Version: &n}, ErrBadName, "space"},
	} {
		err := CheckConditions([]Condition{{Stream: "good", Version: &n}, row.c})
		switch {
		case row.want == nil && err != nil:
			t.Errorf("%s: %v", row.name, err)
		case row.want != nil && (!errors.Is(err, row.want) || !strings.Contains(err.Description, row.says)):
			t.Errorf("%s: got %v, want %s that says %q", row.name, err, row.want.Name, row.says)
		}
	}
	// The bound holds for all conditions together.
	half := query(terms(MaxQueryTerms/2 + 1)...)
	if err := CheckConditions([]Condition{half, half}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("two conditions of half the terms and more: %v, want %s", err, ErrTooLarge.Name)
	}
}

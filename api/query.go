package api

import (
	"slices"
	"strings"
)

// Query selects events: those that at least one of its items matches. The same language is spoken by reads and by conditions.
type Query struct {
	Items []QueryItem `json:"items"` // 1 to MaxQueryItems
}

// QueryItem matches an event that is of one of the types (or of a type that begins with one of TypePrefixes), has all of the tags, and lies in a stream
// whose name begins with one of StreamPrefixes. What is left out matches everything; at least one of the four is needed.
type QueryItem struct {
	Types          []string `json:"types,omitempty"`
	TypePrefixes   []string `json:"type_prefixes,omitempty"`
	Tags           []string `json:"tags,omitempty"`
	StreamPrefixes []string `json:"stream_prefixes,omitempty"`
}

// Condition is what must hold for an append to be written. It is exactly one of: Stream with Version, or Query with After.
type Condition struct {
	// Stream is looked at before anything of the append is written; the append may write it or not.
	Stream string `json:"stream,omitempty"`
	// Version is what the stream's last version must be: exactly n, ExpectNoStream or ExpectExists.
	Version *int64 `json:"version,omitempty"`
	// Query fails the append when an event that it matches lies behind After.
	Query *Query `json:"query,omitempty"`
	After uint64 `json:"after,omitempty"` // a position, exclusive; 0: the whole store is looked at
}

// Check reports the first thing that is wrong with the query; at is what the request calls it.
func (q *Query) Check(at string) *Error {
	if len(q.Items) == 0 {
		return ErrBadRequest.With("%s.items is empty; it needs at least one item of types, type_prefixes, tags or stream_prefixes", at)
	}
	if len(q.Items) > MaxQueryItems {
		return ErrTooLarge.With("%s has %d items; at most %d are allowed", at, len(q.Items), MaxQueryItems)
	}
	for i := range q.Items {
		if err := q.Items[i].check(); err != nil {
			return err.With("%s.items[%d]: %s", at, i, err.Description)
		}
	}
	if n := q.Terms(); n > MaxQueryTerms {
		return ErrTooLarge.With("%s names %d types, tags and prefixes; at most %d are allowed", at, n, MaxQueryTerms)
	}
	return nil
}

func (it *QueryItem) check() *Error {
	if it.terms() == 0 {
		return ErrBadRequest.With("the item is empty; it needs types, type_prefixes, tags or stream_prefixes")
	}
	for _, field := range []struct {
		name  string
		texts []string
		limit int
		check func(string) *Error
	}{
		{"types", it.Types, MaxItemTerms, CheckEventType},
		{"type_prefixes", it.TypePrefixes, MaxItemTerms, CheckEventType},
		{"tags", it.Tags, MaxTags, CheckTag},
		{"stream_prefixes", it.StreamPrefixes, MaxItemTerms, checkStreamPrefix},
	} {
		if len(field.texts) > field.limit {
			return ErrTooLarge.With("%s has %d texts; at most %d are allowed", field.name, len(field.texts), field.limit)
		}
		for i, text := range field.texts {
			if err := field.check(text); err != nil {
				return err.With("%s[%d]: %s", field.name, i, err.Description)
			}
		}
	}
	return nil
}

func checkStreamPrefix(prefix string) *Error {
	return checkField("stream prefix", prefix, MaxStreamName)
}

func (it *QueryItem) terms() int {
	return len(it.Types) + len(it.TypePrefixes) + len(it.Tags) + len(it.StreamPrefixes)
}

// Terms counts the types, tags and prefixes the query names.
func (q *Query) Terms() int {
	n := 0
	for i := range q.Items {
		n += q.Items[i].terms()
	}
	return n
}

// Matches reports whether an event of the type, with the tags, in the stream is selected.
func (q *Query) Matches(typ string, tags []string, stream string) bool {
	for i := range q.Items {
		if q.Items[i].Matches(typ, tags, stream) {
			return true
		}
	}
	return false
}

// Matches reports whether the item matches an event of the type, with the tags, in the stream.
func (it *QueryItem) Matches(typ string, tags []string, stream string) bool {
	begins := func(s string) func(string) bool {
		return func(prefix string) bool { return strings.HasPrefix(s, prefix) }
	}
	if len(it.Types)+len(it.TypePrefixes) > 0 && !slices.Contains(it.Types, typ) && !slices.ContainsFunc(it.TypePrefixes, begins(typ)) {
		return false
	}
	for _, tag := range it.Tags {
		if !slices.Contains(tags, tag) {
			return false
		}
	}
	return len(it.StreamPrefixes) == 0 || slices.ContainsFunc(it.StreamPrefixes, begins(stream))
}

// CheckConditions reports the first thing that is wrong with an append's conditions, naming it as conditions[i].
func CheckConditions(conditions []Condition) *Error {
	if len(conditions) > MaxConditions {
		return ErrTooLarge.With("%d conditions; at most %d are allowed", len(conditions), MaxConditions)
	}
	terms := 0
	for i := range conditions {
		c := &conditions[i]
		if err := c.check(); err != nil {
			return err.With("conditions[%d]: %s", i, err.Description)
		}
		if c.Query != nil {
			terms += c.Query.Terms()
		}
	}
	if terms > MaxQueryTerms {
		return ErrTooLarge.With("the conditions name %d types, tags and prefixes together; at most %d are allowed", terms, MaxQueryTerms)
	}
	return nil
}

func (c *Condition) check() *Error {
	switch {
	case c.Query != nil && (c.Stream != "" || c.Version != nil):
		return ErrBadRequest.With("query and stream are both given; a condition is one of them")
	case c.Query != nil:
		if err := c.Query.Check("query"); err != nil {
			return err
		}
		for i := range c.Query.Items {
			if it := &c.Query.Items[i]; len(it.Types)+len(it.TypePrefixes)+len(it.Tags) == 0 {
				return ErrBadRequest.With("query.items[%d]: stream_prefixes alone would look at every event; add types, type_prefixes or tags, or use conditions with stream and version", i)
			}
		}
		return nil
	case c.Stream == "":
		return ErrBadRequest.With("the condition is empty; it needs stream and version, or query and after")
	case c.After != 0:
		return ErrBadRequest.With("after belongs to query; a condition on a stream has version")
	case c.Version == nil:
		return ErrBadRequest.With("version is missing; use n, -1 (must not exist) or -4 (must exist)")
	case *c.Version == ExpectAny:
		return ErrBadRequest.With("version -2 (any) always holds; leave the condition out, or use n, -1 (must not exist) or -4 (must exist)")
	case *c.Version < ExpectAny && *c.Version != ExpectExists:
		return ErrBadRequest.With("version %d is not a version; use n, -1 (must not exist) or -4 (must exist)", *c.Version)
	}
	return CheckStreamName(c.Stream)
}

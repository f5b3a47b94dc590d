package stores

import (
	"errors"
	"testing"

	"github.com/quorate/quorate/api"
)

// A stream's own metadata is JSON, and so text: encoding/json takes other bytes too, and every reply with them would be no JSON.
func TestCustomIsText(t *testing.T) {
	_, s := openLone(t, Config{})
	var a answers
	for custom, want := range map[string]*api.Error{`{"a":"ü"}`: nil, "{\"a\":\"\xff\"}": api.ErrBadRequest} {
		_, err := ask[api.StreamStateResponse](&a, func(done Done) *api.Error {
			return s.PutStreamMetadata("s", api.StreamMetadataRequest{Custom: []byte(custom)}, done)
		})
		if (err != nil || want != nil) && !errors.Is(err, want) {
			t.Errorf("%q: %v", custom, err)
		}
	}
}

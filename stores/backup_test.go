package stores

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/quorate/quorate/api"
)

// TestKeySets: keys that do not fit on one page are kept as of one moment, in a file that has no name, until the set's time is over, there are too many sets or the store is closed.
func TestKeySets(t *testing.T) {
	m, s := openLone(t, Config{})
	put := func(n int, text string) {
		t.Helper()
		if err := appendTo(s, "a", fmt.Sprint("e", n), 1); err != nil {
			t.Fatal(err)
		}
		done := make(chan *api.Error, 1)
		r := api.SnapshotPutRequest{Version: uint64(n), DataBase64: []byte(strings.Repeat(text, 300_000/len(text)))}
		if err := s.PutSnapshot("a", r, func(_ any, err *api.Error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	first, err := s.BackupKeys(t.Context(), api.BackupKeysRequest{})
	if err != nil || first.Set != "" || first.Pages != 0 || first.Keys != 0 || first.Page != nil {
		t.Errorf("of an empty store: %+v, %v", first, err)
	}
	put(0, "a")
	if first, err = s.BackupKeys(t.Context(), api.BackupKeysRequest{}); err != nil || first.Set != "" || first.Pages != 1 || first.Keys != 1 || first.Position != 1 {
		t.Errorf("one page: %+v, %v", first, err)
	}
	for n := 1; n < 8; n++ {
		put(n, "b")
	}
	if first, err = s.BackupKeys(t.Context(), api.BackupKeysRequest{}); err != nil || first.Set == "" || first.Pages < 3 || first.Keys != 8 || first.Position != 8 {
		t.Fatalf("several pages: %d of %d keys, %v", first.Pages, first.Keys, err)
	}
	put(8, "later")
	keys := uint64(0)
	for i := range first.Pages {
		page, err := s.BackupKeys(t.Context(), api.BackupKeysRequest{Set: first.Set, Page: i})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && !bytes.Equal(page.Page, first.Page) {
			t.Error("the first page is another one when it is asked for again")
		}
		at, list, derr := api.DecodeBackupKeys(page.Page)
		if derr != nil || at != keys || bytes.Contains(page.Page, []byte("later")) {
			t.Errorf("page %d begins with key %d, wanted %d; %v", i, at, keys, derr)
		}
		keys += uint64(len(list))
	}
	if keys != first.Keys {
		t.Errorf("the pages have %d keys, announced were %d", keys, first.Keys)
	}
	for _, page := range []int{-1, first.Pages} {
		if _, err := s.BackupKeys(t.Context(), api.BackupKeysRequest{Set: first.Set, Page: page}); !errors.Is(err, api.ErrBadRequest) {
			t.Errorf("page %d: %v", page, err)
		}
	}
	if names, err := os.ReadDir(s.dir); err != nil || len(names) == 0 {
		t.Errorf("%v, %v", names, err)
	} else {
		for _, n := range names {
			if strings.HasPrefix(n.Name(), "backup-") {
				t.Errorf("the file %s has a name", n.Name())
			}
		}
	}
	for range maxKeySets {
		if _, err := s.BackupKeys(t.Context(), api.BackupKeysRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(why string) {
		t.Helper()
		if _, err := s.BackupKeys(t.Context(), api.BackupKeysRequest{Set: first.Set}); !errors.Is(err, api.ErrBackupSetGone) {
			t.Errorf("%s: %v", why, err)
		}
	}
	gone("too many sets")
	if first, err = s.BackupKeys(t.Context(), api.BackupKeysRequest{}); err != nil {
		t.Fatal(err)
	}
	s.keySets.drop(s.keySets.find(first.Set)) // as the timer does
	gone("its time is over")
	if first, err = s.BackupKeys(t.Context(), api.BackupKeysRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	gone("the store is closed")
}

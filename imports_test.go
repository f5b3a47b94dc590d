package quorate

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/quorate/quorate"

// arrows says which of our packages each package may import, and why not more.
var arrows = map[string]struct {
	may []string
	why string
}{
	"api":                  {nil, "clients in any program import it; it pulls in nothing"},
	"raftnode/wal":         {nil, "a log knows of groups and entries, not of who uses it"},
	"raftnode/wal/waltest": {[]string{"raftnode/wal"}, "one suite for every log"},
	"raftnode/transport":   {nil, "carries bytes; can be lifted into other projects with raftnode"},
	"raftnode":             {[]string{"raftnode/wal", "raftnode/transport"}, "the engine knows no events, no NATS"},
	"stores/fsm":           {[]string{"api"}, "pure: no network, no clock, no Raft engine"},
	"client":               {[]string{"api"}, "must not pull in the server"},
	"stores":               {[]string{"stores/fsm", "raftnode", "raftnode/wal", "api"}, "joins group and state machine; wal for the group's id only"},
	"configsvc":            {[]string{"stores", "api"}, "a client of an ordinary store"},
	"cluster":              {[]string{"configsvc", "raftnode", "api"}, "reaches peers through interfaces that natsbus provides"},
	"natsbus":              {[]string{"stores", "configsvc", "cluster", "api", "raftnode"}, "raftnode for the type of a leadership only"},
	"dashboard":            {[]string{"cluster", "stores", "api", "raftnode"}, "reads; raftnode for the type of a leadership only"},
	"internal/node":        {[]string{"api", "cluster", "configsvc", "dashboard", "natsbus", "raftnode", "stores"}, "the start order: it alone knows all parts"},
	"cmd/quorate":          {[]string{"api", "client", "internal/node"}, "a node, or a client of one"},
	"internal/testcluster": {[]string{"api", "client"}, "tests clusters from outside"},
}

// outside says where a library may be imported.
var outside = map[string][]string{
	"github.com/nats-io/nats.go":          {"natsbus", "client", "cmd/quorate", "internal/testcluster"},
	"github.com/nats-io/nats-server/v2":   {"natsbus"},
	"go.etcd.io/bbolt":                    {"stores/fsm", "raftnode/wal"},
	"github.com/hashicorp/raft":           {"raftnode", "raftnode/wal", "raftnode/wal/waltest", "raftnode/transport", "stores/fsm"},
	"github.com/prometheus/client_golang": {"dashboard"},
	"github.com/alecthomas/kong":          {"cmd/quorate"},
	"github.com/synadia-io/orbit.go":      {"cmd/quorate"},
	"github.com/cloudevents/sdk-go":       nil, // tests only
}

// TestArrows keeps the layers apart: what a package may import is a decision, and this is where it is taken.
func TestArrows(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != "." || d.Name() == "testdata" || file == "bench" || file == "examples") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		pkg := filepath.ToSlash(path.Dir(file))
		if pkg == "." {
			return nil
		}
		rule, known := arrows[pkg]
		if !known {
			t.Errorf("package %s has no rule; give it one in imports_test.go", pkg)
			return nil
		}
		seen[pkg] = true
		for _, imported := range importsOf(t, file) {
			ours, isOurs := strings.CutPrefix(imported, module+"/")
			if isOurs && !slices.Contains(rule.may, ours) {
				t.Errorf("%s imports %s; %s may import %v: %s", file, ours, pkg, rule.may, rule.why)
			}
			if !isOurs && rule.may == nil && pkg == "api" && strings.Contains(imported, ".") {
				t.Errorf("%s imports %s; api is the standard library only", file, imported)
			}
			for library, where := range outside {
				if (imported == library || strings.HasPrefix(imported, library+"/")) && !slices.Contains(where, pkg) {
					t.Errorf("%s imports %s, which belongs in %v", file, library, where)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range arrows {
		if _, err := os.Stat(pkg); err == nil && !seen[pkg] {
			t.Errorf("package %s was not looked at", pkg)
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d packages were looked at", len(seen))
	}
}

func importsOf(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, spec := range f.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

package fsm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// impure says why a package may not be imported here; of some, single names may not be used.
var (
	impurePackages = map[string]string{
		"math/rand":                  "replicas would differ",
		"math/rand/v2":               "replicas would differ",
		"crypto/rand":                "replicas would differ",
		"net":                        "applying must not depend on the network",
		"hash/maphash":               "its seed differs between replicas",
		"github.com/nats-io/nats.go": "publishing is an effect, and belongs outside",
	}
	impureNames = map[string][]string{
		"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Local"},
		"os":   {"Getenv", "LookupEnv", "Environ", "Hostname", "Getpid"},
	}
)

// TestPurity holds the package to its comment: Apply knows no clock, no network and no randomness.
func TestPurity(t *testing.T) {
	entries, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, name := range entries {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		files++
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range impurities(t, name, string(src)) {
			t.Error(found)
		}
	}
	if files < 5 {
		t.Errorf("looked at %d files only", files)
	}
}

func TestPurityBites(t *testing.T) {
	for _, src := range []string{
		`import "time"; var x = time.Now()`, `import clock "time"; var x = clock.Now`, `import . "time"`, `import "net"`, `import "net/http"`, `import _ "math/rand/v2"`, `import "crypto/rand"`,
	} {
		if got := impurities(t, "x.go", "package x\n"+src); len(got) != 1 {
			t.Errorf("%s: found %v, want one", src, got)
		}
	}
	if got := impurities(t, "x.go", "package x\nimport \"time\"\nvar x = time.UnixMicro(1)"); len(got) != 0 {
		t.Errorf("pure code: found %v", got)
	}
}

func impurities(t *testing.T, name, src string) (found []string) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	local := make(map[string]string) // name in this file → package
	for _, imp := range file.Imports {
		path, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		why, bad := impurePackages[path]
		if strings.HasPrefix(path, "net/") {
			why, bad = impurePackages["net"], true
		}
		if bad {
			found = append(found, set.Position(imp.Pos()).String()+": imports "+path+": "+why)
		}
		if imp.Name != nil && imp.Name.Name == "." && impureNames[path] != nil {
			found = append(found, set.Position(imp.Pos()).String()+": imports all names of "+path)
		}
		short := path[strings.LastIndex(path, "/")+1:]
		if imp.Name != nil {
			short = imp.Name.Name
		}
		local[short] = path
	}
	ast.Inspect(file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(impureNames[local[x.Name]], sel.Sel.Name) {
			found = append(found, set.Position(sel.Pos()).String()+": uses "+local[x.Name]+"."+sel.Sel.Name)
		}
		return true
	})
	return found
}

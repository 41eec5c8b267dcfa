package app

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the dependency table of docs/architecture.md: what non-test files of a folder may import of ours. "room" stands for
// the importer's own room. The first row whose prefix fits counts.
var mayImport = []struct {
	prefix  string
	allowed []string
}{
	{"pipeline/bus", []string{"kemi"}},
	{"pipeline/codec", []string{"kemi", "pipeline/bus"}},
	{"pipeline/store", []string{"kemi", "pipeline/bus", "pipeline/codec"}},
	{"pipeline/storetest", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store"}},
	{"pipeline/batch", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "pipeline/settled"}},
	{"pipeline/merge", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "pipeline/settled", "pipeline/batch", "pipeline/head"}},
	{"pipeline/head", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "pipeline/pack"}},
	{"pipeline/lines", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "pipeline/pattern"}},
	{"pipeline/transform", []string{"kemi"}},
	{"pipeline/", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "pipeline/transform"}},
	{"collectors/collectortest", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/wal", "room"}},
	{"collectors/", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "pipeline/transform", "room"}},
	{"sauron/", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "room"}},
	{"alerting/", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "room"}},
	{"provisioning/", []string{"kemi", "pipeline/bus", "pipeline/codec", "pipeline/store", "room"}},
	{"web", nil},
	{"app", []string{"kemi", "any but cmd"}},
	{"cmd/kemi", []string{"kemi", "app", "sauron/client", "collectors/agent", "collectors/backfill"}},
	{"e2e", []string{"kemi", "sauron/client"}},
	{"", nil}, // the root package
}

// soleImporter names the one folder that may import a third-party package (tests may, too).
var soleImporter = map[string][]string{
	"github.com/prometheus/prometheus/tsdb":   {"pipeline/head"},
	"github.com/prometheus/prometheus/promql": {"sauron/promql", "sauron/columns", "alerting/watch", "pipeline/storetest"},
	"github.com/prometheus/prometheus/rules":  {"alerting/watch"},
	"github.com/prometheus/alertmanager":      {"alerting/"},
	"github.com/FastFilter/xorfilter":         {"pipeline/pattern"},
	"modernc.org/sqlite":                      {"pipeline/sqlite"},
	"github.com/spf13/cobra":                  {"cmd/kemi"},
	"k8s.io/client-go":                        {"collectors/kubesd"},
}

func TestImports(t *testing.T) {
	root := ".."
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(rel)), ".")
		if strings.Count(dir, "/") > 1 {
			t.Errorf("%s: packages lie at most one level below a room", dir)
		}
		for _, imp := range f.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			seen++
			if msg := forbidden(dir, p); msg != "" {
				t.Errorf("%s imports %s: %s", rel, p, msg)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Fatalf("saw %d imports: the walk does not see the tree", seen)
	}
}

// forbidden says why a file in dir may not import path, or "".
func forbidden(dir, path string) string {
	if path != "kemi" && !strings.HasPrefix(path, "kemi/") {
		for third, owners := range soleImporter {
			if (path == third || strings.HasPrefix(path, third+"/")) && !slices.ContainsFunc(owners, func(o string) bool { return strings.HasPrefix(dir, o) }) {
				// The small packages beside the engines that hold types only are free.
				if strings.HasPrefix(path, "github.com/prometheus/prometheus/promql/parser") || strings.HasPrefix(path, "github.com/prometheus/prometheus/tsdb/chunkenc") {
					continue
				}
				return "only " + strings.Join(owners, ", ") + " may"
			}
		}
		return ""
	}
	ours := strings.TrimPrefix(strings.TrimPrefix(path, "kemi"), "/")
	for _, row := range mayImport {
		if row.prefix != dir && !(strings.HasSuffix(row.prefix, "/") && strings.HasPrefix(dir, row.prefix)) &&
			!(row.prefix != "" && !strings.HasSuffix(row.prefix, "/") && (dir == row.prefix || strings.HasPrefix(dir, row.prefix+"/"))) {
			continue
		}
		for _, a := range row.allowed {
			switch {
			case a == "kemi" && ours == "",
				a == ours,
				a == "any but cmd" && !strings.HasPrefix(ours, "cmd/"),
				a == "room" && ours != "" && strings.HasPrefix(ours, dir[:strings.Index(dir, "/")+1]):
				return ""
			}
		}
		return "not in the row of " + strconv.Quote(row.prefix)
	}
	return "its folder stands in no row"
}

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		dir, path string
		ok        bool
	}{
		{"", "net/http", true},
		{"", "kemi/app", false},
		{"pipeline/wal", "kemi/pipeline/bus", true},
		{"pipeline/wal", "kemi/pipeline/head", false},
		{"pipeline/bus", "kemi/pipeline/store", false},
		{"sauron/query", "kemi/sauron/limit", true},
		{"sauron/query", "kemi/alerting/watch", false},
		{"alerting/watch", "github.com/prometheus/prometheus/rules", true},
		{"sauron/query", "github.com/prometheus/prometheus/tsdb", false},
		{"app", "kemi/pipeline/wal", true},
		{"app", "kemi/cmd/kemi", false},
		{"cmd/kemi", "kemi/pipeline/wal", false},
		{"web", "kemi", false},
		{"elsewhere", "kemi", false},
	} {
		if got := forbidden(c.dir, c.path); (got == "") != c.ok {
			t.Errorf("%s imports %s: %q", c.dir, c.path, got)
		}
	}
}

package query

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kemi"
	"kemi/pipeline/store"
)

// forgetful is memory that can forget.
type forgetful struct{ *memory }

func (f forgetful) Delete(_ context.Context, id kemi.Identity, sel store.Selector, r kemi.Range) error {
	if len(sel) == 0 {
		return kemi.Errorf(kemi.ErrInvalid, "the empty selector")
	}
	found, err := f.find(id, sel, r)
	if err != nil {
		return err
	}
	for _, gone := range found {
		for _, s := range f.projects[id.Project] {
			for i := len(s.at) - 1; i >= 0 && s.labels.Compare(gone.labels) == 0; i-- {
				if r.Contains(s.at[i]) {
					s.at, s.v = slices.Delete(s.at, i, i+1), slices.Delete(s.v, i, i+1)
				}
			}
		}
	}
	return nil
}

// left is what a project still has: metric{tags} and the times in minutes.
func (f forgetful) left(project string) string {
	var out []string
	for _, s := range f.projects[project] {
		line := s.labels.String()
		for _, at := range s.at {
			line += fmt.Sprintf(" %d", (at-1515900000_000)/60_000)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

func TestDelete(t *testing.T) {
	const all = " 0 1 2 3 4 5"
	for name, c := range map[string]struct{ method, target, body, want string }{
		"by method":      {"DELETE", "/api/query?start=1515900060&end=1515900180&m=sum:cpu{host=a}", "", `cpu{host=a}: 0 4 5`},
		"by override":    {"GET", "/api/query?start=1515900060&end=1515900180&m=sum:cpu{host=a}&method_override=delete", "", `cpu{host=a}: 0 4 5`},
		"by body":        {"POST", "/api/v2/query", `{"start":1515900060,"end":1515900180,"delete":true,"queries":[{"aggregator":"none","metric":"cpu","tags":{"host":"a|b"}}]}`, `cpu{host=a}: 0 4 5; cpu{host=b}: 0 4 5; cpu{disk=x,host=b}: 0 4 5`},
		"explicit tags":  {"POST", "/api/query", `{"start":1515900060,"end":1515900180,"delete":true,"queries":[{"aggregator":"none","metric":"cpu","explicitTags":true,"filters":[{"type":"wildcard","tagk":"host","filter":"*"}]}]}`, `cpu{host=a}: 0 4 5; cpu{host=b}: 0 4 5`},
		"a wild pattern": {"DELETE", "/api/query?start=1515900060&end=1515900180&m=sum:cpu{host=*b*b}", "", ""},
		"nothing there":  {"DELETE", "/api/query?start=1515800060&end=1515800180&m=sum:cpu{host=a}", "", ""},
		"not asked to":   {"POST", "/api/query", `{"start":1515900060,"end":1515900180,"delete":false,"queries":[{"aggregator":"none","metric":"cpu"}]}`, ""},
	} {
		f := forgetful{newMemory()}
		for _, tags := range []string{"host=a", "host=b", "disk=x,host=b"} {
			if err := f.load("cpu{" + tags + "} 1515900000 60s: 1 2 3 4 5 6"); err != nil {
				t.Fatal(err)
			}
		}
		h := serve(newEngine(t, f, func(o *Options) { o.Deleter, o.Config = f, DefaultConfig(); o.Config.AllowDelete = true }))
		deleter := testID
		testID.Permissions |= kemi.MetricsDelete
		code, body, _ := do(t, h, c.method, c.target, c.body)
		testID = deleter
		want := map[string]string{"host=a": all, "host=b": all, "disk=x,host=b": all}
		for _, s := range strings.Split(c.want, "; ") {
			if k, v, ok := strings.Cut(strings.TrimPrefix(s, "cpu{"), "}:"); ok {
				want[k] = v
			}
		}
		text := fmt.Sprintf("{__name__=\"cpu\", disk=\"x\", host=\"b\"}%s\n{__name__=\"cpu\", host=\"a\"}%s\n{__name__=\"cpu\", host=\"b\"}%s", want["disk=x,host=b"], want["host=a"], want["host=b"])
		if got := f.left("default"); code != 200 || got != text {
			t.Errorf("%s: %d %s\ngot\n%s\nwant\n%s", name, code, body, got, text)
		}
	}
}

// TestDeleteGuards: the configuration, the permission and the store each have to allow it, and nothing is deleted otherwise.
func TestDeleteGuards(t *testing.T) {
	const del = "/api/query?start=1515900000&end=1515900600&m=sum:cpu&method_override=delete"
	for name, c := range map[string]struct {
		allow, may, can bool
		code            int
		says            string
	}{
		"not allowed":   {false, true, true, 400, "Deleting data is not enabled"},
		"no permission": {true, false, true, 403, "metrics:delete"},
		"cannot forget": {true, true, false, 501, "cannot forget"},
		"all three":     {true, true, true, 200, `"metric":"cpu"`},
	} {
		f := forgetful{newMemory()}
		if err := f.load("cpu{host=a} 1515900000 60s: 1 2"); err != nil {
			t.Fatal(err)
		}
		before := f.left("default")
		h := serve(newEngine(t, f, func(o *Options) {
			o.Config = DefaultConfig()
			o.Config.AllowDelete = c.allow
			if c.can {
				o.Deleter = f
			}
		}))
		deleter := testID
		if c.may {
			testID.Permissions |= kemi.MetricsDelete
		}
		code, body, _ := do(t, h, "GET", del, "")
		testID = deleter
		if code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s: %d %s", name, code, body)
		}
		if gone := f.left("default") != before; gone != (c.code == 200) {
			t.Errorf("%s: %s", name, f.left("default"))
		}
	}
}

package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// OpenControl prepares an empty control store and returns what opens it. The returned function is called again after Close, and then must
// give the same store with all that it holds.
type OpenControl func(t testing.TB) (open func() store.Control)

// Control checks that a back-end keeps the contract of store.Control.
func Control(t *testing.T, open OpenControl) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, func() store.Control)
	}{
		{"RoundTrip", controlRoundTrip},
		{"Revisions", controlRevisions},
		{"AllOrNone", controlAllOrNone},
		{"Delete", controlDelete},
		{"List", controlList},
		{"Pages", controlPages},
		{"Refuses", controlRefuses},
		{"Reopen", controlReopen},
		{"Concurrent", controlConcurrent},
		{"Context", controlContext},
		{"Closed", controlClosed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func closing(t testing.TB, c store.Control) store.Control {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func resource(project, kind, name, spec string) store.Resource {
	return store.Resource{Project: project, Kind: kind, Name: name, Spec: json.RawMessage(spec)}
}

func mustPut(t testing.TB, c store.Control, r store.Resource) store.Resource {
	t.Helper()
	out, err := c.Put(t.Context(), r)
	if err != nil {
		t.Fatalf("put %s/%s/%s at revision %d: %v", r.Project, r.Kind, r.Name, r.Revision, err)
	}
	return out
}

func wantKind(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error is %v, want kind %v", err, kind)
	}
}

func sameResource(a, b store.Resource) bool {
	return a.Project == b.Project && a.Kind == b.Kind && a.Name == b.Name && string(a.Spec) == string(b.Spec) && string(a.Status) == string(b.Status) &&
		(a.Spec == nil) == (b.Spec == nil) && (a.Status == nil) == (b.Status == nil) && a.Revision == b.Revision && a.Updated == b.Updated
}

func controlRoundTrip(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	before := kemi.MillisOf(time.Now())
	for _, r := range []store.Resource{
		resource("p", "host", "a", `{"x":1,  "y":"\u00e9 é \u0000"}`), // the bytes stay as they are
		resource("p", "host", "이름/with?odd%chars#'\"\n", `[]`),
		{Project: "p", Kind: "host", Name: "status only", Status: json.RawMessage(`null`)},
		{Project: "p", Kind: "host", Name: "neither"},
		resource("other", "host", "a", `"other project"`),
		resource("p", "service", "a", `"other kind"`),
		resource("p", "host", "large", `"`+string(slices.Repeat([]byte("x"), 1<<20))+`"`),
	} {
		stored := mustPut(t, c, r)
		if stored.Revision <= 0 || stored.Updated < before {
			t.Fatalf("put %q: revision %d, updated %d", r.Name, stored.Revision, stored.Updated)
		}
		got, err := c.Get(t.Context(), r.Project, r.Kind, r.Name)
		if err != nil {
			t.Fatal(err)
		}
		r.Revision, r.Updated = stored.Revision, stored.Updated
		if !sameResource(got, r) || !sameResource(stored, r) {
			t.Fatalf("got %.200v, put returned %.200v, want %.200v", got, stored, r)
		}
	}
	_, err := c.Get(t.Context(), "p", "host", "none")
	wantKind(t, err, kemi.ErrNotFound)
}

func controlRevisions(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	first := mustPut(t, c, resource("p", "k", "a", `1`))
	_, err := c.Put(t.Context(), resource("p", "k", "a", `2`))
	wantKind(t, err, kemi.ErrConflict)
	second := first
	second.Spec = json.RawMessage(`2`)
	second = mustPut(t, c, second)
	if second.Revision <= first.Revision {
		t.Fatalf("revision went from %d to %d", first.Revision, second.Revision)
	}
	_, err = c.Put(t.Context(), first)
	wantKind(t, err, kemi.ErrConflict)
	gone := resource("p", "k", "never there", `1`)
	gone.Revision = second.Revision
	_, err = c.Put(t.Context(), gone)
	wantKind(t, err, kemi.ErrConflict)
	_, err = c.Get(t.Context(), "p", "k", "never there")
	wantKind(t, err, kemi.ErrNotFound)
	anyway := resource("p", "k", "a", `3`)
	anyway.Revision = store.AnyRevision
	third := mustPut(t, c, anyway)
	anyway.Name = "new"
	fourth := mustPut(t, c, anyway)
	if third.Revision <= second.Revision || fourth.Revision <= third.Revision {
		t.Fatalf("revisions %d, %d, %d do not ascend over the store", second.Revision, third.Revision, fourth.Revision)
	}
	if err := c.Delete(t.Context(), "p", "k", "a", third.Revision); err != nil {
		t.Fatal(err)
	}
	if again := mustPut(t, c, resource("p", "k", "a", `1`)); again.Revision <= fourth.Revision {
		t.Fatalf("made again, the revision is %d, not over %d", again.Revision, fourth.Revision)
	}
}

func controlAllOrNone(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	a := mustPut(t, c, resource("p", "k", "a", `1`))
	b := mustPut(t, c, resource("p", "k", "b", `1`))
	stale := b
	stale.Revision = a.Revision
	a2 := a
	a2.Spec = json.RawMessage(`2`)
	_, err := c.PutAll(t.Context(), []store.Resource{resource("p", "k", "c", `1`), a2, stale})
	wantKind(t, err, kemi.ErrConflict)
	if got, err := c.Get(t.Context(), "p", "k", "a"); err != nil || !sameResource(got, a) {
		t.Fatalf("after a refused PutAll a is %v (%v), want %v", got, err, a)
	}
	_, err = c.Get(t.Context(), "p", "k", "c")
	wantKind(t, err, kemi.ErrNotFound)
	out, err := c.PutAll(t.Context(), []store.Resource{resource("p", "k", "c", `1`), a2, b})
	if err != nil || len(out) != 3 {
		t.Fatalf("%d stored, error %v", len(out), err)
	}
	for _, r := range out {
		if got, err := c.Get(t.Context(), "p", "k", r.Name); err != nil || !sameResource(got, r) {
			t.Fatalf("%s is %v (%v), want %v", r.Name, got, err, r)
		}
	}
	if out, err := c.PutAll(t.Context(), nil); err != nil || len(out) != 0 {
		t.Fatalf("PutAll of nothing: %v, %v", out, err)
	}
}

func controlDelete(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	r := mustPut(t, c, resource("p", "k", "a", `1`))
	wantKind(t, c.Delete(t.Context(), "p", "k", "none", store.AnyRevision), kemi.ErrNotFound)
	wantKind(t, c.Delete(t.Context(), "q", "k", "a", store.AnyRevision), kemi.ErrNotFound)
	wantKind(t, c.Delete(t.Context(), "p", "k", "a", r.Revision+1), kemi.ErrConflict)
	if err := c.Delete(t.Context(), "p", "k", "a", r.Revision); err != nil {
		t.Fatal(err)
	}
	wantKind(t, c.Delete(t.Context(), "p", "k", "a", r.Revision), kemi.ErrNotFound)
	mustPut(t, c, resource("p", "k", "a", `1`))
	if err := c.Delete(t.Context(), "p", "k", "a", store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	_, err := c.Get(t.Context(), "p", "k", "a")
	wantKind(t, err, kemi.ErrNotFound)
}

func names(rs []store.Resource) string {
	s := ""
	for _, r := range rs {
		s += r.Project + "/" + r.Name + " "
	}
	return s
}

func controlList(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	for _, n := range []string{"b", "a", "B", "a\xff", "a\xff\xff", "가", "ab", "a/1", "~"} {
		mustPut(t, c, resource("p", "k", n, `1`))
	}
	mustPut(t, c, resource("o", "k", "a", `1`))
	mustPut(t, c, resource("q", "k", "a2", `1`))
	mustPut(t, c, resource("p", "k2", "x", `1`))
	for _, tc := range []struct {
		name    string
		project string
		o       store.ListOptions
		want    string
	}{
		{"bytes", "p", store.ListOptions{}, "p/B p/a p/a/1 p/ab p/a\xff p/a\xff\xff p/b p/~ p/가 "},
		{"prefix", "p", store.ListOptions{Prefix: "a"}, "p/a p/a/1 p/ab p/a\xff p/a\xff\xff "},
		{"prefix at the end of bytes", "p", store.ListOptions{Prefix: "a\xff"}, "p/a\xff p/a\xff\xff "},
		{"prefix of high bytes only", "p", store.ListOptions{Prefix: "\xff"}, ""},
		{"a prefix is no pattern", "p", store.ListOptions{Prefix: "%"}, ""},
		{"after", "p", store.ListOptions{After: "ab"}, "p/a\xff p/a\xff\xff p/b p/~ p/가 "},
		{"after what is not there", "p", store.ListOptions{After: "aa"}, "p/ab p/a\xff p/a\xff\xff p/b p/~ p/가 "},
		{"limit", "p", store.ListOptions{Limit: 2}, "p/B p/a "},
		{"reverse", "p", store.ListOptions{Reverse: true, Limit: 3}, "p/가 p/~ p/b "},
		{"reverse after", "p", store.ListOptions{Reverse: true, After: "ab"}, "p/a/1 p/a p/B "},
		{"reverse, prefix, after, limit", "p", store.ListOptions{Reverse: true, Prefix: "a", After: "a\xff", Limit: 2}, "p/ab p/a/1 "},
		{"all projects", "", store.ListOptions{Prefix: "a", Limit: 3}, "o/a p/a p/a/1 "},
		{"all projects reversed", "", store.ListOptions{Prefix: "a", Limit: 2, Reverse: true}, "q/a2 p/a\xff\xff "},
		{"none", "none", store.ListOptions{}, ""},
	} {
		rs, err := c.List(t.Context(), tc.project, "k", tc.o)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got := names(rs); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
		for _, r := range rs {
			if r.Kind != "k" || string(r.Spec) != "1" || r.Revision == 0 || r.Updated == 0 {
				t.Errorf("%s: incomplete %v", tc.name, r)
			}
		}
	}
}

func controlPages(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	rs := make([]store.Resource, 25)
	for i := range rs {
		rs[i] = resource("p", "k", fmt.Sprintf("n%02d", i), `{}`)
	}
	if _, err := c.PutAll(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	for _, reverse := range []bool{false, true} {
		var all []string
		o := store.ListOptions{Limit: 10, Reverse: reverse}
		for {
			page, err := c.List(t.Context(), "p", "k", o)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				all = append(all, r.Name)
			}
			if len(page) < o.Limit {
				break
			}
			o.After = page[len(page)-1].Name
		}
		if reverse {
			slices.Reverse(all)
		}
		if len(all) != 25 || !slices.IsSorted(all) || len(slices.Compact(all)) != 25 {
			t.Fatalf("reverse %v: pages give %v", reverse, all)
		}
	}
}

func controlRefuses(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	for _, r := range []store.Resource{
		resource("", "k", "a", `1`), resource("p", "", "a", `1`), resource("p", "k", "", `1`),
		resource("p", "k", "a\x00b", `1`), resource("p", "k", string(slices.Repeat([]byte("n"), 5000)), `1`),
		resource("p", "k", "a", `{`), {Project: "p", Kind: "k", Name: "a", Status: json.RawMessage(`nope`)},
		{Project: "p", Kind: "k", Name: "a", Revision: -2},
	} {
		_, err := c.Put(t.Context(), r)
		wantKind(t, err, kemi.ErrInvalid)
	}
	_, err := c.Put(t.Context(), resource("p", "k", "a", `"`+string(slices.Repeat([]byte("x"), 33<<20))+`"`))
	wantKind(t, err, kemi.ErrTooLarge)
	if rs, err := c.List(t.Context(), "", "k", store.ListOptions{}); err != nil || len(rs) != 0 {
		t.Fatalf("stored all the same: %s (%v)", names(rs), err)
	}
}

func controlReopen(t *testing.T, open func() store.Control) {
	c := open()
	a := mustPut(t, c, resource("p", "k", "a", `{"v":1}`))
	b := mustPut(t, c, resource("p", "k", "b", `{"v":2}`))
	if err := c.Delete(t.Context(), "p", "k", "b", b.Revision); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = closing(t, open())
	if got, err := c.Get(t.Context(), "p", "k", "a"); err != nil || !sameResource(got, a) {
		t.Fatalf("after reopening: %v (%v), want %v", got, err, a)
	}
	if again := mustPut(t, c, resource("p", "k", "b", `1`)); again.Revision <= b.Revision {
		t.Fatalf("revision %d after reopening, not over %d", again.Revision, b.Revision)
	}
}

func controlConcurrent(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	mustPut(t, c, resource("p", "k", "counter", `0`))
	const workers, each = 8, 25
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	revisions := make([][]int64, workers)
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				for { // optimistic: read, add one, write, again if somebody was faster
					r, err := c.Get(t.Context(), "p", "k", "counter")
					if err != nil {
						t.Error(err)
						return
					}
					var n int
					if err := json.Unmarshal(r.Spec, &n); err != nil {
						t.Error(err)
						return
					}
					r.Spec = json.RawMessage(fmt.Sprint(n + 1))
					r, err = c.Put(t.Context(), r)
					if errors.Is(err, kemi.ErrConflict) {
						conflicts.Add(1)
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					revisions[w] = append(revisions[w], r.Revision)
					break
				}
				if _, err := c.Put(t.Context(), resource("p", "own", fmt.Sprintf("%d-%d", w, i), `{}`)); err != nil {
					t.Error(err)
				}
				if _, err := c.List(t.Context(), "p", "own", store.ListOptions{Limit: 10}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r, err := c.Get(t.Context(), "p", "k", "counter")
	if err != nil || string(r.Spec) != fmt.Sprint(workers*each) {
		t.Fatalf("counter is %s (%v) after %d increments, %d conflicts", r.Spec, err, workers*each, conflicts.Load())
	}
	all := slices.Concat(revisions...)
	slices.Sort(all)
	if len(slices.Compact(all)) != workers*each {
		t.Fatal("a revision was given twice")
	}
}

func controlContext(t *testing.T, open func() store.Control) {
	c := closing(t, open())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Put(ctx, resource("p", "k", "a", `1`))
	wantKind(t, err, context.Canceled)
	_, err = c.Get(ctx, "p", "k", "a")
	wantKind(t, err, context.Canceled)
	_, err = c.List(ctx, "p", "k", store.ListOptions{})
	wantKind(t, err, context.Canceled)
	_, err = c.Get(t.Context(), "p", "k", "a")
	wantKind(t, err, kemi.ErrNotFound)
}

func controlClosed(t *testing.T, open func() store.Control) {
	c := open()
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Put(t.Context(), resource("p", "k", "a", `1`))
	wantKind(t, err, kemi.ErrUnavailable)
	_, err = c.Get(t.Context(), "p", "k", "a")
	wantKind(t, err, kemi.ErrUnavailable)
	_, err = c.List(t.Context(), "p", "k", store.ListOptions{})
	wantKind(t, err, kemi.ErrUnavailable)
	wantKind(t, c.Delete(t.Context(), "p", "k", "a", store.AnyRevision), kemi.ErrUnavailable)
}

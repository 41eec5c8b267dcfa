package merge

import (
	"slices"
	"strings"
	"testing"
)

func TestUnion(t *testing.T) {
	for _, c := range []struct{ lists, want string }{
		{"", ""}, {"a b", "a b"}, {"/a", "a"}, {"a/", "a"}, {"a b/a b/a b", "a b"}, {"a c/b", "a b c"}, {"b/a c", "a b c"},
		{"a b/a", "a b"}, {"b/a b/c/b c d", "a b c d"}, {"x y z/a b c", "a b c x y z"},
	} {
		var lists [][]string
		for _, l := range strings.Split(c.lists, "/") {
			lists = append(lists, strings.Fields(l))
		}
		before := slices.Clone(lists)
		if got := strings.Join(union(lists...), " "); got != c.want {
			t.Errorf("union of %q: %q, want %q", c.lists, got, c.want)
		}
		for i := range lists {
			if !slices.Equal(lists[i], before[i]) {
				t.Errorf("union of %q changed a list", c.lists)
			}
		}
	}
}

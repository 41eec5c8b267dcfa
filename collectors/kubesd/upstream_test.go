//go:build upstream

package kubesd

// Upstream's package against the same server: go test -tags upstream -run Upstream ./collectors/kubesd. It is not part of the ordinary
// tests because it links what this package is there to avoid (80 CPU-seconds of build).

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"go.yaml.in/yaml/v2"
)

func TestUpstream(t *testing.T) {
	for _, more := range rolesTested {
		t.Run(more.name, func(t *testing.T) {
			s := newAPIServer(t)
			world(s)
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte(s.token), 0o600); err != nil {
				t.Fatal(err)
			}
			c := &kubernetes.SDConfig{}
			if err := yaml.UnmarshalStrict([]byte("api_server: "+s.URL+"\nauthorization: {credentials_file: "+file+"}\n"+flowToBlock(more.config)), c); err != nil {
				t.Fatal(err)
			}
			got := text(run(t, c).until("all groups", func(all map[string]*targetgroup.Group) bool {
				return len(all) == more.groups && strings.Count(text(all), "\n") >= more.groups
			}))
			want, err := os.ReadFile(filepath.Join("testdata", more.name+".txt"))
			if err != nil || got != string(want) {
				t.Errorf("%v\nupstream\n%s\nours\n%s", err, got, want)
			}
		})
	}
}

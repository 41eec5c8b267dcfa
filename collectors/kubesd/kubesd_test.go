package kubesd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"go.yaml.in/yaml/v2"
)

// world fills a server with one of everything.
func world(s *apiServer) {
	s.put("nodes", `{"metadata":{"name":"n1","labels":{"zone":"a"},"annotations":{"x/y":"z"}},"spec":{"providerID":"p://1"},"status":{
		"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"Hostname","address":"n1.example"},{"type":"InternalIP","address":"10.0.0.1"},{"type":"InternalIP","address":"10.0.0.9"}],
		"daemonEndpoints":{"kubeletEndpoint":{"Port":10250}}}}`)
	s.put("namespaces", `{"metadata":{"name":"shop","labels":{"team":"pay"},"annotations":{"cost":"7"}}}`)
	s.put("replicasets", `{"metadata":{"name":"web-1","namespace":"shop","ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"web","uid":"1","controller":true}]}}`)
	s.put("jobs", `{"metadata":{"name":"nightly-7","namespace":"shop","ownerReferences":[{"apiVersion":"batch/v1","kind":"CronJob","name":"nightly","uid":"2","controller":true}]}}`)
	s.put("pods", `{"metadata":{"name":"web-1-a","namespace":"shop","uid":"u1","labels":{"app":"web"},"annotations":{"prometheus.io/scrape":"true"},
		"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"3","controller":true}]},
		"spec":{"nodeName":"n1","containers":[{"name":"web","image":"web:1","ports":[{"name":"http","containerPort":8080,"protocol":"TCP"},{"name":"metrics","containerPort":9090,"protocol":"TCP"}]},{"name":"log","image":"log:2"}],
		"initContainers":[{"name":"setup","image":"setup:1"}]},
		"status":{"podIP":"10.1.0.1","hostIP":"10.0.0.1","phase":"Running","conditions":[{"type":"Ready","status":"True"}],
		"containerStatuses":[{"name":"web","containerID":"c://web"}],"initContainerStatuses":[{"name":"setup","containerID":"c://setup"}]}}`)
	s.put("pods", `{"metadata":{"name":"nightly-7-x","namespace":"shop","uid":"u2","ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":"nightly-7","uid":"4","controller":true}]},
		"spec":{"nodeName":"n2","containers":[{"name":"run","image":"run:1"}]},"status":{"podIP":"10.1.0.2","hostIP":"10.0.0.2","phase":"Succeeded"}}`)
	s.put("pods", `{"metadata":{"name":"waiting","namespace":"shop","uid":"u3"},"spec":{"containers":[{"name":"c","image":"c"}]},"status":{"phase":"Pending"}}`)
	s.put("services", `{"metadata":{"name":"web","namespace":"shop","labels":{"app":"web"}},"spec":{"type":"ClusterIP","clusterIP":"10.2.0.1","ports":[{"name":"http","port":80,"protocol":"TCP"}]}}`)
	s.put("services", `{"metadata":{"name":"out","namespace":"shop"},"spec":{"type":"ExternalName","externalName":"out.example","ports":[{"name":"x","port":443,"protocol":"TCP"}]}}`)
	s.put("services", `{"metadata":{"name":"lb","namespace":"other"},"spec":{"type":"LoadBalancer","clusterIP":"10.2.0.3","ipFamilyPolicy":"PreferDualStack","ipFamilies":["IPv4","IPv6"],"ports":[{"name":"y","port":8443,"protocol":"TCP"}]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"},{"ip":"192.0.2.2"}]}}}`)
	s.put("endpoints", `{"metadata":{"name":"web","namespace":"shop","labels":{"app":"web"}},"subsets":[{"addresses":[{"ip":"10.1.0.1","nodeName":"n1","hostname":"h1","targetRef":{"kind":"Pod","namespace":"shop","name":"web-1-a"}}],
		"notReadyAddresses":[{"ip":"10.1.0.5"}],"ports":[{"name":"http","port":8080,"protocol":"TCP"}]}]}`)
	s.put("endpointslices", `{"metadata":{"name":"web-abc","namespace":"shop","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
		"endpoints":[{"addresses":["10.1.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false},"hostname":"h1","nodeName":"n1","zone":"a","targetRef":{"kind":"Pod","namespace":"shop","name":"web-1-a"},"deprecatedTopology":{"t/p":"v"}},
		{"addresses":["10.1.0.7"],"conditions":{"ready":false}}],"ports":[{"name":"http","port":8080,"protocol":"TCP","appProtocol":"http"}]}`)
	s.put("endpointslices", `{"metadata":{"name":"lb-6","namespace":"other","labels":{"kubernetes.io/service-name":"lb"}},"addressType":"IPv6","endpoints":[{"addresses":["2001:db8::1"],"conditions":{}}],"ports":[{"port":8443}]}`)
	s.put("ingresses", `{"metadata":{"name":"in","namespace":"shop"},"spec":{"ingressClassName":"nginx","tls":[{"hosts":["*.shop.example"]}],"rules":[
		{"host":"a.shop.example","http":{"paths":[{"path":"/x","pathType":"Prefix","backend":{}},{"path":"","pathType":"Prefix","backend":{}}]}},{"host":"shop.example"}]}}`)
}

func configOf(t testing.TB, s *apiServer, more string) *Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(s.token), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Config{}
	if err := yaml.UnmarshalStrict([]byte("api_server: "+s.URL+"\nauthorization: {credentials_file: "+file+"}\n"+more), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// groups is what a discoverer has said so far: its newest word of each source.
type groups struct {
	t      testing.TB
	ch     chan []*targetgroup.Group
	newest map[string]*targetgroup.Group
}

func run(t testing.TB, c discovery.Config) *groups {
	t.Helper()
	reg := prometheus.NewRegistry()
	m := c.NewDiscovererMetrics(reg, nil)
	if err := m.Register(); err != nil {
		t.Fatal(err)
	}
	d, err := c.NewDiscoverer(discovery.DiscovererOptions{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: m})
	if err != nil {
		t.Fatal(err)
	}
	g := &groups{t: t, ch: make(chan []*targetgroup.Group), newest: map[string]*targetgroup.Group{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx, g.ch)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return g
}

// until reads groups until ok holds of them all.
func (g *groups) until(what string, ok func(all map[string]*targetgroup.Group) bool) map[string]*targetgroup.Group {
	g.t.Helper()
	deadline := time.After(20 * time.Second)
	for !ok(g.newest) {
		select {
		case list := <-g.ch:
			for _, x := range list {
				if len(x.Targets) == 0 {
					delete(g.newest, x.Source)
				} else {
					g.newest[x.Source] = x
				}
			}
		case <-deadline:
			g.t.Fatalf("not within 20 s: %s; there is\n%s", what, text(g.newest))
		}
	}
	return g.newest
}

// text is groups as lines in order.
func text(all map[string]*targetgroup.Group) string {
	var lines []string
	for source, g := range all {
		for _, t := range g.Targets {
			ls := g.Labels.Merge(t)
			var pairs []string
			for k, v := range ls {
				pairs = append(pairs, strings.TrimPrefix(string(k), prefix)+"="+string(v))
			}
			slices.Sort(pairs)
			lines = append(lines, source+" "+strings.Join(pairs, " "))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

const everything = ", attach_metadata: {node: true, namespace: true, deployment: true, job: true, cronjob: true}"

// rolesTested are configurations, and how many groups each finds in world.
var rolesTested = []struct {
	name, config string
	groups       int
}{
	{"node", "role: node", 1}, {"pod", "role: pod", 2}, {"service", "role: service", 3}, {"endpoints", "role: endpoints", 1},
	{"endpointslice", "role: endpointslice", 1}, {"ingress", "role: ingress", 1},
	{"pod-attach", "role: pod" + everything, 1}, {"endpoints-attach", "role: endpoints" + everything, 1},
	{"endpointslice-attach", "role: endpointslice" + everything, 1}, {"service-attach", "role: service, attach_metadata: {namespace: true}", 3},
	{"selector", "role: pod, selectors: [{role: pod, label: app=web}]", 1}, {"namespaces", "role: service, namespaces: {names: [other]}", 1},
}

// TestRoles compares what each role finds with testdata, which upstream's package finds, too.
func TestRoles(t *testing.T) {
	for _, c := range rolesTested {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			world(s)
			got := text(run(t, configOf(t, s, flowToBlock(c.config))).until("all groups", func(all map[string]*targetgroup.Group) bool { return len(all) == c.groups }))
			golden := filepath.Join("testdata", c.name+".txt")
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || got != string(want) {
				t.Errorf("%v\ngot\n%s\nwant\n%s", err, got, want)
			}
		})
	}
}

// flowToBlock is the entries of a flow mapping as lines.
func flowToBlock(s string) string {
	var m yaml.MapSlice
	if err := yaml.Unmarshal([]byte("{"+s+"}"), &m); err != nil {
		panic(err)
	}
	b, err := yaml.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// TestChanges follows a service while what it consists of changes.
func TestChanges(t *testing.T) {
	s := newAPIServer(t)
	world(s)
	g := run(t, configOf(t, s, flowToBlock("role: endpointslice"+everything)))
	const source = "endpointslice/shop/web-abc"
	has := func(label, value string) func(map[string]*targetgroup.Group) bool {
		return func(all map[string]*targetgroup.Group) bool {
			return all[source] != nil && slices.ContainsFunc(all[source].Targets, func(t model.LabelSet) bool {
				return string(all[source].Labels.Merge(t)[model.LabelName(prefix+label)]) == value
			})
		}
	}
	g.until("the slice", has("pod_name", "web-1-a"))
	s.put("pods", `{"metadata":{"name":"web-1-a","namespace":"shop","uid":"u1","labels":{"app":"changed"}},"spec":{"nodeName":"n1","containers":[{"name":"web","image":"web:2","ports":[{"name":"http","containerPort":8080,"protocol":"TCP"}]}]},"status":{"podIP":"10.1.0.1","phase":"Running"}}`)
	g.until("the pod's label", has("pod_label_app", "changed"))
	s.put("services", `{"metadata":{"name":"web","namespace":"shop","labels":{"app":"renamed"}},"spec":{"type":"ClusterIP","ports":[]}}`)
	g.until("the service's label", has("service_label_app", "renamed"))
	s.put("nodes", `{"metadata":{"name":"n1","labels":{"zone":"b"}}}`)
	g.until("the node's label", has("node_label_zone", "b"))
	s.put("namespaces", `{"metadata":{"name":"shop","labels":{"team":"new"}}}`)
	g.until("the namespace's label", has("namespace_label_team", "new"))
	// A server that was away for long: what happened meanwhile is found, too.
	s.lose()
	s.delete("endpointslices", "shop/web-abc")
	s.put("endpointslices", `{"metadata":{"name":"more","namespace":"shop"},"addressType":"IPv4","endpoints":[{"addresses":["10.9.9.9"],"conditions":{}}],"ports":[{"port":1}]}`)
	g.until("only the new slice", func(all map[string]*targetgroup.Group) bool {
		return all[source] == nil && all["endpointslice/shop/more"] != nil
	})
	s.delete("endpointslices", "shop/more")
	g.until("nothing", func(all map[string]*targetgroup.Group) bool { return len(all) == 0 })
}

// TestRefused is that discovery starts as soon as it may.
func TestRefused(t *testing.T) {
	s := newAPIServer(t)
	world(s)
	s.mu.Lock()
	s.denied = "pods"
	s.mu.Unlock()
	c := configOf(t, s, "role: pod\n")
	g := run(t, c)
	select {
	case list := <-g.ch:
		t.Fatalf("found %v", list)
	case <-time.After(100 * time.Millisecond):
	}
	s.mu.Lock()
	s.denied = ""
	s.mu.Unlock()
	g.until("both pods", func(all map[string]*targetgroup.Group) bool { return len(all) == 2 })
}

// TestConfig is what is right and wrong in a configuration.
func TestConfig(t *testing.T) {
	for _, c := range []struct{ text, wrong string }{
		{"role: pod", ""},
		{"{role: pod, selectors: [{role: pod, label: 'a in (b,c)', field: 'spec.nodeName=n'}], namespaces: {names: [a], own_namespace: true}}", ""},
		{"{role: node, kubeconfig_file: /x}", ""},
		{"{role: pods}", `role "pods": must be one of`},
		{"{}", `role "": must be one of`},
		{"{role: pod, colour: red}", "colour"},
		{"{role: node, selectors: [{role: pod}]}", `with role node it must be one of [node]`},
		{"{role: pod, selectors: [{role: pod}, {role: pod}]}", "stands there twice"},
		{"{role: pod, selectors: [{role: pod, label: 'a in'}]}", `label "a in"`},
		{"{role: pod, api_server: 'http://a', kubeconfig_file: b}", "only one of them"},
		{"{role: pod, basic_auth: {username: u}}", "need api_server"},
		{"{role: pod, kubeconfig_file: b, basic_auth: {username: u}}", "leave the options"},
		{"{role: pod, api_server: 'http://a', namespaces: {own_namespace: true}}", "only inside a cluster"},
	} {
		err := yaml.UnmarshalStrict([]byte(c.text), &Config{})
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v, want %q", c.text, err, c.wrong)
		}
	}
	if _, err := (&Config{Role: Pod}).NewDiscoverer(discovery.DiscovererOptions{Metrics: &metrics{}}); err == nil || !strings.Contains(err.Error(), "this is no pod") {
		t.Errorf("outside of a cluster: %v", err)
	}
}

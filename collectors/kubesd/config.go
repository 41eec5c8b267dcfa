package kubesd

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/discovery"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config is an entry of kubernetes_sd_configs.
type Config struct {
	APIServer        config.URL              `yaml:"api_server,omitempty"`
	Role             Role                    `yaml:"role"`
	KubeConfig       string                  `yaml:"kubeconfig_file"`
	HTTPClientConfig config.HTTPClientConfig `yaml:",inline"`
	Namespaces       Namespaces              `yaml:"namespaces,omitempty"`
	Selectors        []Selector              `yaml:"selectors,omitempty"`
	AttachMetadata   Attach                  `yaml:"attach_metadata,omitempty"`
}

// Role is the kind of object that targets are made of.
type Role string

// The roles.
const (
	Node          Role = "node"
	Pod           Role = "pod"
	Service       Role = "service"
	Endpoints     Role = "endpoints"
	EndpointSlice Role = "endpointslice"
	Ingress       Role = "ingress"
)

// selectable are the roles, and for each those whose objects selectors may narrow.
var selectable = map[Role][]Role{
	Node: {Node}, Pod: {Pod, Node}, Service: {Service}, Ingress: {Ingress},
	Endpoints: {Pod, Service, Endpoints}, EndpointSlice: {Pod, Service, EndpointSlice},
}

// Namespaces are where objects are looked for: everywhere if nothing is said.
type Namespaces struct {
	Own   bool     `yaml:"own_namespace"`
	Names []string `yaml:"names"`
}

// Selector narrows the objects of a kind.
type Selector struct {
	Role  Role   `yaml:"role,omitempty"`
	Label string `yaml:"label,omitempty"`
	Field string `yaml:"field,omitempty"`
}

// Attach says which other objects' labels targets get as well.
type Attach struct {
	Node       bool `yaml:"node"`
	Namespace  bool `yaml:"namespace"`
	Deployment bool `yaml:"deployment"`
	Job        bool `yaml:"job"`
	CronJob    bool `yaml:"cronjob"`
}

// Name is the name of this kind of discovery.
func (*Config) Name() string { return "kubernetes" }

// SetDirectory makes relative names of files relative to dir.
func (c *Config) SetDirectory(dir string) {
	c.HTTPClientConfig.SetDirectory(dir)
	c.KubeConfig = config.JoinDir(dir, c.KubeConfig)
}

// UnmarshalYAML reads and checks it.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error {
	*c = Config{HTTPClientConfig: config.DefaultHTTPClientConfig}
	type plain Config
	if err := unmarshal((*plain)(c)); err != nil {
		return err
	}
	if err := c.HTTPClientConfig.Validate(); err != nil {
		return err
	}
	return c.check()
}

func (c *Config) check() error {
	may, ok := selectable[c.Role]
	if !ok {
		return fmt.Errorf("kubernetes_sd_configs: role %q: must be one of pod, service, endpoints, endpointslice, node, ingress", c.Role)
	}
	own := reflect.DeepEqual(c.HTTPClientConfig, config.DefaultHTTPClientConfig)
	switch {
	case c.APIServer.URL != nil && c.KubeConfig != "":
		return errors.New("kubernetes_sd_configs: kubeconfig_file and api_server: only one of them")
	case c.KubeConfig != "" && !own:
		return errors.New("kubernetes_sd_configs: kubeconfig_file: says itself how to connect; leave the options of the HTTP client out")
	case c.APIServer.URL == nil && !own:
		return errors.New("kubernetes_sd_configs: options of the HTTP client need api_server")
	case (c.APIServer.URL != nil || c.KubeConfig != "") && c.Namespaces.Own:
		return errors.New("kubernetes_sd_configs: namespaces.own_namespace: only inside a cluster, without api_server and kubeconfig_file")
	}
	seen := map[Role]bool{}
	for _, s := range c.Selectors {
		if seen[s.Role] {
			return fmt.Errorf("kubernetes_sd_configs: selectors: role %q stands there twice", s.Role)
		}
		seen[s.Role] = true
		if !slices.Contains(may, s.Role) {
			return fmt.Errorf("kubernetes_sd_configs: selectors: role %q: with role %s it must be one of %v", s.Role, c.Role, may)
		}
		if _, err := fields.ParseSelector(s.Field); err != nil {
			return fmt.Errorf("kubernetes_sd_configs: selectors: field %q: %w", s.Field, err)
		}
		if _, err := labels.Parse(s.Label); err != nil {
			return fmt.Errorf("kubernetes_sd_configs: selectors: label %q: %w", s.Label, err)
		}
	}
	return nil
}

// serviceAccount is where a pod finds the name of its namespace.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// connect is how to reach the API server, and the namespaces to look in.
func (c *Config) connect() (*rest.Config, []string, error) {
	names := slices.Clone(c.Namespaces.Names)
	var rc *rest.Config
	var err error
	switch {
	case c.KubeConfig != "":
		if rc, err = clientcmd.BuildConfigFromFlags("", c.KubeConfig); err != nil {
			return nil, nil, fmt.Errorf("kubernetes_sd_configs: kubeconfig_file %s: %w", c.KubeConfig, err)
		}
	case c.APIServer.URL != nil:
		rt, err := config.NewRoundTripperFromConfig(c.HTTPClientConfig, "kubernetes_sd")
		if err != nil {
			return nil, nil, fmt.Errorf("kubernetes_sd_configs: %w", err)
		}
		rc = &rest.Config{Host: c.APIServer.String(), Transport: rt}
	default:
		if rc, err = rest.InClusterConfig(); err != nil {
			return nil, nil, fmt.Errorf("kubernetes_sd_configs: neither api_server nor kubeconfig_file is given, and this is no pod: %w", err)
		}
		if c.Namespaces.Own {
			b, err := os.ReadFile(serviceAccount)
			if err != nil {
				return nil, nil, fmt.Errorf("kubernetes_sd_configs: own namespace: %w", err)
			}
			names = append(names, strings.TrimSpace(string(b)))
		}
	}
	if len(names) == 0 {
		names = []string{""}
	}
	rc.UserAgent = "kemi"
	return rc, names, nil
}

// NewDiscovererMetrics is the metrics of all discoverers of this kind, with upstream's names.
func (*Config) NewDiscovererMetrics(reg prometheus.Registerer, _ discovery.RefreshMetricsInstantiator) discovery.DiscovererMetrics {
	m := &metrics{
		events:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prometheus_sd_kubernetes_events_total", Help: "Changes of objects that were handled."}, []string{"role", "event"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "prometheus_sd_kubernetes_failures_total", Help: "Lists and watches that failed."}),
	}
	m.MetricRegisterer = discovery.NewMetricRegisterer(reg, []prometheus.Collector{m.events, m.failures})
	return m
}

type metrics struct {
	discovery.MetricRegisterer
	events   *prometheus.CounterVec
	failures prometheus.Counter
}

func (m *metrics) Register() error { return m.RegisterMetrics() }
func (m *metrics) Unregister()     { m.UnregisterMetrics() }

package kubesd

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/util/strutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// prefix begins the names of all labels, which are upstream's.
const prefix = model.MetaLabelPrefix + "kubernetes_"

// build makes the group of targets of one object. get finds another object by its key, namespace/name or name, or gives nil.
type build struct {
	attach Attach
	get    func(k kind, key string) metav1.Object
}

type set = model.LabelSet

// put sets a label of this kind of discovery.
func put(ls set, name, value string) { ls[model.LabelName(prefix+name)] = model.LabelValue(value) }

func putOptional(ls set, name string, value *string) {
	if value != nil {
		put(ls, name, *value)
	}
}

func putBool(ls set, name string, value *bool) {
	if value != nil {
		put(ls, name, strconv.FormatBool(*value))
	}
}

// describe adds the labels and annotations of an object.
func describe(ls set, of string, o metav1.Object) {
	for what, values := range map[string]map[string]string{"label": o.GetLabels(), "annotation": o.GetAnnotations()} {
		for k, v := range values {
			k = strutil.SanitizeLabelName(k)
			put(ls, of+"_"+what+"_"+k, v)
			put(ls, of+"_"+what+"present_"+k, "true")
		}
	}
}

// identify adds name, labels and annotations of an object.
func identify(ls set, of string, o metav1.Object) {
	put(ls, of+"_name", o.GetName())
	describe(ls, of, o)
}

func address(host string, port int32) model.LabelValue {
	return model.LabelValue(net.JoinHostPort(host, strconv.Itoa(int(port))))
}

func keyOf(o metav1.Object) string {
	if ns := o.GetNamespace(); ns != "" {
		return ns + "/" + o.GetName()
	}
	return o.GetName()
}

// group is the targets of o; source names it also when it is gone.
func (b build) group(o metav1.Object, source string) *targetgroup.Group {
	g := &targetgroup.Group{Source: source, Labels: set{}}
	switch o := o.(type) {
	case *node:
		b.node(g, o)
	case *pod:
		b.pod(g, o)
	case *service:
		b.serviceLabels(g.Labels, o)
		b.namespace(g.Labels, o.Namespace)
		servicePorts(g, o)
	case *endpointsObject:
		b.endpoints(g, o)
	case *endpointSlice:
		b.slice(g, o)
	case *ingress:
		b.ingress(g, o)
	}
	return g
}

func (b build) namespace(ls set, name string) {
	if b.attach.Namespace {
		if ns := b.get(namespaces, name); ns != nil {
			describe(ls, "namespace", ns)
		}
	}
}

// onNode adds what is known of a node, and tells whether there is one of that name.
func (b build) onNode(ls set, name string) bool {
	n := b.get(nodes, name)
	if n != nil {
		identify(ls, "node", n)
	}
	return n != nil
}

// addressTypes are the kinds of a node's addresses, the best to be scraped first.
var addressTypes = []string{"InternalIP", "InternalDNS", "ExternalIP", "ExternalDNS", "LegacyHostIP", "Hostname"}

func (b build) node(g *targetgroup.Group, n *node) {
	put(g.Labels, "node_provider_id", n.Spec.ProviderID)
	for _, c := range n.Status.Conditions {
		put(g.Labels, "node_condition_"+strutil.SanitizeLabelName(strings.ToLower(c.Type)), strings.ToLower(c.Status))
	}
	identify(g.Labels, "node", n)
	first := map[string]string{}
	for _, a := range slices.Backward(n.Status.Addresses) {
		first[a.Type] = a.Address
	}
	for _, kind := range addressTypes {
		host, ok := first[kind]
		if !ok {
			continue
		}
		t := set{model.AddressLabel: address(host, n.Status.DaemonEndpoints.KubeletEndpoint.Port), model.InstanceLabel: model.LabelValue(n.Name)}
		for kind, a := range first {
			put(t, "node_address_"+strutil.SanitizeLabelName(kind), a)
		}
		g.Targets = append(g.Targets, t)
		return
	}
}

// podLabels are what every target of a pod gets.
func (b build) podLabels(ls set, p *pod) {
	ready := "unknown"
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			ready = strings.ToLower(c.Status)
		}
	}
	put(ls, "pod_ip", p.Status.PodIP)
	put(ls, "pod_ready", ready)
	put(ls, "pod_phase", p.Status.Phase)
	put(ls, "pod_node_name", p.Spec.NodeName)
	put(ls, "pod_host_ip", p.Status.HostIP)
	put(ls, "pod_uid", string(p.UID))
	identify(ls, "pod", p)
	owner := metav1.GetControllerOfNoCopy(p)
	if owner == nil {
		return
	}
	put(ls, "pod_controller_kind", owner.Kind)
	put(ls, "pod_controller_name", owner.Name)
	// above is the name of what controls the owner, if it is of that kind.
	above := func(k kind, kind string) (string, bool) {
		if o := b.get(k, p.Namespace+"/"+owner.Name); o != nil {
			if c := metav1.GetControllerOfNoCopy(o); c != nil && c.Kind == kind {
				return c.Name, true
			}
		}
		return "", false
	}
	switch owner.Kind {
	case "ReplicaSet":
		if b.attach.Deployment {
			if name, ok := above(replicaSets, "Deployment"); ok {
				put(ls, "pod_deployment_name", name)
			}
		}
	case "Job":
		if b.attach.Job {
			put(ls, "pod_job_name", owner.Name)
		}
		if b.attach.CronJob {
			if name, ok := above(jobs, "CronJob"); ok {
				put(ls, "pod_cronjob_name", name)
			}
		}
	}
}

// eachContainer calls f for the containers of a pod, those that run first last.
func (p *pod) eachContainer(f func(c *container, status []containerStatus, init bool)) {
	for i := range p.Spec.Containers {
		f(&p.Spec.Containers[i], p.Status.ContainerStatuses, false)
	}
	for i := range p.Spec.InitContainers {
		f(&p.Spec.InitContainers[i], p.Status.InitContainerStatuses, true)
	}
}

func putPort(ls set, c *container, port *containerPort, protocol string, init bool) {
	put(ls, "pod_container_name", c.Name)
	put(ls, "pod_container_image", c.Image)
	put(ls, "pod_container_init", strconv.FormatBool(init))
	if port != nil {
		put(ls, "pod_container_port_name", port.Name)
		put(ls, "pod_container_port_number", strconv.Itoa(int(port.ContainerPort)))
		put(ls, "pod_container_port_protocol", protocol)
	}
}

func (b build) pod(g *targetgroup.Group, p *pod) {
	if p.Status.PodIP == "" {
		return // it has no address yet, or none any more
	}
	put(g.Labels, "namespace", p.Namespace)
	if b.attach.Node && !b.onNode(g.Labels, p.Spec.NodeName) {
		g.Labels = set{}
		return // the selector of nodes leaves its node out
	}
	b.podLabels(g.Labels, p)
	b.namespace(g.Labels, p.Namespace)
	p.eachContainer(func(c *container, status []containerStatus, init bool) {
		id := ""
		for _, s := range status {
			if s.Name == c.Name {
				id = s.ContainerID
			}
		}
		if len(c.Ports) == 0 { // one target whose port relabelling has to add
			t := set{model.AddressLabel: model.LabelValue(p.Status.PodIP)}
			putPort(t, c, nil, "", init)
			put(t, "pod_container_id", id)
			g.Targets = append(g.Targets, t)
		}
		for i := range c.Ports {
			t := set{model.AddressLabel: address(p.Status.PodIP, c.Ports[i].ContainerPort)}
			putPort(t, c, &c.Ports[i], c.Ports[i].Protocol, init)
			put(t, "pod_container_id", id)
			g.Targets = append(g.Targets, t)
		}
	})
}

func (build) serviceLabels(ls set, s *service) {
	put(ls, "namespace", s.Namespace)
	identify(ls, "service", s)
}

func servicePorts(g *targetgroup.Group, s *service) {
	for _, p := range s.Spec.Ports {
		t := set{model.AddressLabel: address(s.Name+"."+s.Namespace+".svc", p.Port)}
		put(t, "service_port_name", p.Name)
		put(t, "service_port_number", strconv.Itoa(int(p.Port)))
		put(t, "service_port_protocol", p.Protocol)
		put(t, "service_type", s.Spec.Type)
		if s.Spec.Type == "ExternalName" {
			put(t, "service_external_name", s.Spec.ExternalName)
		} else {
			put(t, "service_cluster_ip", s.Spec.ClusterIP)
		}
		if s.Spec.Type == "LoadBalancer" {
			var ips []string
			for _, in := range s.Status.LoadBalancer.Ingress {
				if in.IP != "" {
					ips = append(ips, in.IP)
				}
			}
			put(t, "service_loadbalancer_ip", strings.Join(ips, ","))
		}
		g.Targets = append(g.Targets, t)
	}
}

// backend is one address and port of Endpoints or of an EndpointSlice.
type backend struct {
	labels   set
	ref      *reference
	node     *string
	port     *int32
	protocol string
}

// backends adds targets of addresses, with what is known of the pods behind them, and the ports of those pods that no address names.
func (b build) backends(g *targetgroup.Group, list []backend) {
	type seen struct {
		pod   *pod
		ports []int32
	}
	pods1 := map[string]*seen{}
	var order []string
	for _, e := range list {
		t := e.labels
		if b.attach.Node {
			switch {
			case e.ref != nil && e.ref.Kind == "Node":
				b.onNode(t, e.ref.Name)
			case e.node != nil:
				b.onNode(t, *e.node)
			}
		}
		g.Targets = append(g.Targets, t)
		if e.ref == nil || e.ref.Kind != "Pod" {
			continue
		}
		key := e.ref.Namespace + "/" + e.ref.Name
		p, ok := b.get(pods, key).(*pod)
		if !ok {
			continue
		}
		s := pods1[key]
		if s == nil {
			s = &seen{pod: p}
			pods1[key] = s
			order = append(order, key)
		}
		b.podLabels(t, p)
		if e.port == nil {
			continue
		}
		s.ports = append(s.ports, *e.port)
		p.eachContainer(func(c *container, _ []containerStatus, init bool) {
			for i := range c.Ports {
				if c.Ports[i].ContainerPort == *e.port {
					protocol := e.protocol
					if protocol == "" {
						protocol = c.Ports[i].Protocol
					}
					putPort(t, c, &c.Ports[i], protocol, init)
					return
				}
			}
		})
	}
	for _, key := range order {
		s := pods1[key]
		if s.pod.Status.PodIP == "" {
			continue
		}
		s.pod.eachContainer(func(c *container, _ []containerStatus, init bool) {
			for i := range c.Ports {
				if slices.Contains(s.ports, c.Ports[i].ContainerPort) {
					continue
				}
				t := set{model.AddressLabel: address(s.pod.Status.PodIP, c.Ports[i].ContainerPort)}
				putPort(t, c, &c.Ports[i], c.Ports[i].Protocol, init)
				b.podLabels(t, s.pod)
				g.Targets = append(g.Targets, t)
			}
		})
	}
}

func (b build) endpoints(g *targetgroup.Group, o *endpointsObject) {
	put(g.Labels, "namespace", o.Namespace)
	if s, ok := b.get(services, keyOf(o)).(*service); ok {
		b.serviceLabels(g.Labels, s)
	}
	identify(g.Labels, "endpoints", o)
	b.namespace(g.Labels, o.Namespace)
	var list []backend
	for _, s := range o.Subsets {
		for i := range s.Ports {
			port := &s.Ports[i]
			for ready, addresses := range map[string][]endpointsAddress{"true": s.Addresses, "false": s.NotReadyAddresses} {
				for _, a := range addresses {
					t := set{model.AddressLabel: address(a.IP, port.Port)}
					put(t, "endpoint_port_name", port.Name)
					put(t, "endpoint_port_protocol", port.Protocol)
					put(t, "endpoint_ready", ready)
					putOptional(t, "endpoint_node_name", a.NodeName)
					if a.Hostname != "" {
						put(t, "endpoint_hostname", a.Hostname)
					}
					putReference(t, "endpoint_address", a.TargetRef)
					list = append(list, backend{t, a.TargetRef, a.NodeName, &port.Port, port.Protocol})
				}
			}
		}
	}
	b.backends(g, list)
}

func putReference(ls set, of string, r *reference) {
	if r != nil {
		put(ls, of+"_target_kind", r.Kind)
		put(ls, of+"_target_name", r.Name)
	}
}

// serviceOfSlice is the label of a slice that names its service.
const serviceOfSlice = "kubernetes.io/service-name"

func (b build) slice(g *targetgroup.Group, o *endpointSlice) {
	put(g.Labels, "namespace", o.Namespace)
	put(g.Labels, "endpointslice_address_type", o.AddressType)
	identify(g.Labels, "endpointslice", o)
	b.namespace(g.Labels, o.Namespace)
	if name := o.Labels[serviceOfSlice]; name != "" {
		if s, ok := b.get(services, o.Namespace+"/"+name).(*service); ok {
			b.serviceLabels(g.Labels, s)
			// A service of two families has its addresses twice: those of its first family are enough.
			if both := s.Spec.IPFamilyPolicy; (both == "PreferDualStack" || both == "RequireDualStack") && len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] != o.AddressType {
				return
			}
		}
	}
	var list []backend
	for i := range o.Endpoints {
		e := &o.Endpoints[i]
		for _, port := range o.Ports {
			for _, a := range e.Addresses {
				t := set{model.AddressLabel: model.LabelValue(a)}
				if port.Port != nil {
					t[model.AddressLabel] = address(a, *port.Port)
					put(t, "endpointslice_port", strconv.Itoa(int(*port.Port)))
				}
				putOptional(t, "endpointslice_port_name", port.Name)
				putOptional(t, "endpointslice_port_protocol", port.Protocol)
				putOptional(t, "endpointslice_port_app_protocol", port.AppProtocol)
				putBool(t, "endpointslice_endpoint_conditions_ready", e.Conditions.Ready)
				putBool(t, "endpointslice_endpoint_conditions_serving", e.Conditions.Serving)
				putBool(t, "endpointslice_endpoint_conditions_terminating", e.Conditions.Terminating)
				putOptional(t, "endpointslice_endpoint_hostname", e.Hostname)
				putOptional(t, "endpointslice_endpoint_node_name", e.NodeName)
				putOptional(t, "endpointslice_endpoint_zone", e.Zone)
				putReference(t, "endpointslice_address", e.TargetRef)
				for k, v := range e.DeprecatedTopology {
					k = strutil.SanitizeLabelName(k)
					put(t, "endpointslice_endpoint_topology_"+k, v)
					put(t, "endpointslice_endpoint_topology_present_"+k, "true")
				}
				list = append(list, backend{labels: t, ref: e.TargetRef, node: e.NodeName, port: port.Port})
			}
		}
	}
	b.backends(g, list)
}

func (b build) ingress(g *targetgroup.Group, o *ingress) {
	put(g.Labels, "namespace", o.Namespace)
	putOptional(g.Labels, "ingress_class_name", o.Spec.IngressClassName)
	identify(g.Labels, "ingress", o)
	b.namespace(g.Labels, o.Namespace)
	for _, r := range o.Spec.Rules {
		scheme := "http"
		for _, t := range o.Spec.TLS {
			if slices.ContainsFunc(t.Hosts, func(pattern string) bool { return covers(pattern, r.Host) }) {
				scheme = "https"
			}
		}
		paths := []string{"/"}
		if r.HTTP != nil {
			paths = paths[:0]
			for _, p := range r.HTTP.Paths {
				if p.Path == "" {
					p.Path = "/"
				}
				paths = append(paths, p.Path)
			}
		}
		for _, path := range paths {
			t := set{model.AddressLabel: model.LabelValue(r.Host)}
			put(t, "ingress_scheme", scheme)
			put(t, "ingress_host", r.Host)
			put(t, "ingress_path", path)
			g.Targets = append(g.Targets, t)
		}
	}
}

// covers tells whether a host of a certificate, which may begin with "*.", stands for the host.
func covers(pattern, host string) bool {
	if rest, ok := strings.CutPrefix(pattern, "*."); ok {
		_, after, found := strings.Cut(host, ".")
		return found && after == rest
	}
	return pattern == host
}

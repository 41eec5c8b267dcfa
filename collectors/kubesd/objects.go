package kubesd

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is a kind of object that is watched.
type kind string

// The kinds, by the plural of their resources.
const (
	nodes          kind = "nodes"
	namespaces     kind = "namespaces"
	pods           kind = "pods"
	services       kind = "services"
	endpoints      kind = "endpoints"
	endpointSlices kind = "endpointslices"
	ingresses      kind = "ingresses"
	replicaSets    kind = "replicasets"
	jobs           kind = "jobs"
)

// kinds say for each where it is served, and what is kept of it.
var kinds = map[kind]struct {
	group, version string
	global         bool // it is in no namespace
	empty          func() metav1.Object
}{
	nodes:          {"", "v1", true, func() metav1.Object { return new(node) }},
	namespaces:     {"", "v1", true, func() metav1.Object { return new(bare) }},
	pods:           {"", "v1", false, func() metav1.Object { return new(pod) }},
	services:       {"", "v1", false, func() metav1.Object { return new(service) }},
	endpoints:      {"", "v1", false, func() metav1.Object { return new(endpointsObject) }},
	endpointSlices: {"discovery.k8s.io", "v1", false, func() metav1.Object { return new(endpointSlice) }},
	ingresses:      {"networking.k8s.io", "v1", false, func() metav1.Object { return new(ingress) }},
	replicaSets:    {"apps", "v1", false, func() metav1.Object { return new(bare) }},
	jobs:           {"batch", "v1", false, func() metav1.Object { return new(bare) }},
}

func (k kind) resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: kinds[k].group, Version: kinds[k].version, Resource: string(k)}
}

// kindOf is the kind of a role's own objects.
var kindOf = map[Role]kind{Node: nodes, Pod: pods, Service: services, Endpoints: endpoints, EndpointSlice: endpointSlices, Ingress: ingresses}

// keep reads of an object as the server gave it what is needed, so that a cache of ten thousand pods stays small.
func (k kind) keep(o any) (any, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return o, nil
	}
	unstructured.RemoveNestedField(u.Object, "metadata", "managedFields")
	out := kinds[k].empty()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		return nil, err
	}
	return out, nil
}

// What follows are the parts of Kubernetes' objects that become labels.
type (
	// bare has nothing but its metadata.
	bare struct {
		metav1.ObjectMeta `json:"metadata"`
	}

	node struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			ProviderID string `json:"providerID"`
		} `json:"spec"`
		Status struct {
			Conditions []condition `json:"conditions"`
			Addresses  []struct {
				Type    string `json:"type"`
				Address string `json:"address"`
			} `json:"addresses"`
			DaemonEndpoints struct {
				KubeletEndpoint struct {
					Port int32 `json:"Port"`
				} `json:"kubeletEndpoint"`
			} `json:"daemonEndpoints"`
		} `json:"status"`
	}

	condition struct {
		Type   string `json:"type"`
		Status string `json:"status"`
	}

	pod struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			NodeName       string      `json:"nodeName"`
			Containers     []container `json:"containers"`
			InitContainers []container `json:"initContainers"`
		} `json:"spec"`
		Status struct {
			PodIP                 string            `json:"podIP"`
			HostIP                string            `json:"hostIP"`
			Phase                 string            `json:"phase"`
			Conditions            []condition       `json:"conditions"`
			ContainerStatuses     []containerStatus `json:"containerStatuses"`
			InitContainerStatuses []containerStatus `json:"initContainerStatuses"`
		} `json:"status"`
	}

	container struct {
		Name  string          `json:"name"`
		Image string          `json:"image"`
		Ports []containerPort `json:"ports"`
	}

	containerPort struct {
		Name          string `json:"name"`
		ContainerPort int32  `json:"containerPort"`
		Protocol      string `json:"protocol"`
	}

	containerStatus struct {
		Name        string `json:"name"`
		ContainerID string `json:"containerID"`
	}

	service struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			Type         string `json:"type"`
			ClusterIP    string `json:"clusterIP"`
			ExternalName string `json:"externalName"`
			Ports        []struct {
				Name     string `json:"name"`
				Port     int32  `json:"port"`
				Protocol string `json:"protocol"`
			} `json:"ports"`
			IPFamilyPolicy string   `json:"ipFamilyPolicy"`
			IPFamilies     []string `json:"ipFamilies"`
		} `json:"spec"`
		Status struct {
			LoadBalancer struct {
				Ingress []struct {
					IP string `json:"ip"`
				} `json:"ingress"`
			} `json:"loadBalancer"`
		} `json:"status"`
	}

	reference struct {
		Kind      string `json:"kind"`
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}

	endpointsObject struct {
		metav1.ObjectMeta `json:"metadata"`
		Subsets           []struct {
			Addresses         []endpointsAddress `json:"addresses"`
			NotReadyAddresses []endpointsAddress `json:"notReadyAddresses"`
			Ports             []struct {
				Name     string `json:"name"`
				Port     int32  `json:"port"`
				Protocol string `json:"protocol"`
			} `json:"ports"`
		} `json:"subsets"`
	}

	endpointsAddress struct {
		IP        string     `json:"ip"`
		Hostname  string     `json:"hostname"`
		NodeName  *string    `json:"nodeName"`
		TargetRef *reference `json:"targetRef"`
	}

	endpointSlice struct {
		metav1.ObjectMeta `json:"metadata"`
		AddressType       string `json:"addressType"`
		Endpoints         []struct {
			Addresses  []string `json:"addresses"`
			Conditions struct {
				Ready       *bool `json:"ready"`
				Serving     *bool `json:"serving"`
				Terminating *bool `json:"terminating"`
			} `json:"conditions"`
			Hostname           *string           `json:"hostname"`
			TargetRef          *reference        `json:"targetRef"`
			DeprecatedTopology map[string]string `json:"deprecatedTopology"`
			NodeName           *string           `json:"nodeName"`
			Zone               *string           `json:"zone"`
		} `json:"endpoints"`
		Ports []struct {
			Name        *string `json:"name"`
			Protocol    *string `json:"protocol"`
			Port        *int32  `json:"port"`
			AppProtocol *string `json:"appProtocol"`
		} `json:"ports"`
	}

	ingress struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			IngressClassName *string `json:"ingressClassName"`
			TLS              []struct {
				Hosts []string `json:"hosts"`
			} `json:"tls"`
			Rules []struct {
				Host string `json:"host"`
				HTTP *struct {
					Paths []struct {
						Path string `json:"path"`
					} `json:"paths"`
				} `json:"http"`
			} `json:"rules"`
		} `json:"spec"`
	}
)

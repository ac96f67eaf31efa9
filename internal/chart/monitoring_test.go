package chart_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

// inPod is where the pod has its files.
const inPod = "/etc/gl-k8s-integrator"

// configuration returns the rendered configuration, or nil where it is a file in the Secret.
func configuration(t *testing.T, rendered map[string]*unstructured.Unstructured) *config.Config {
	t.Helper()
	cm := rendered["ConfigMap/gl-k8s-integrator-config"]
	if cm == nil {
		return nil
	}
	text, _, err := unstructured.NestedString(cm.Object, "data", "config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return c
}

// podOf returns the template of the workload's pods.
func podOf(t *testing.T, rendered map[string]*unstructured.Unstructured) *corev1.PodTemplateSpec {
	t.Helper()
	for _, key := range []string{"Deployment/gl-k8s-integrator", "DaemonSet/gl-k8s-integrator"} {
		if rendered[key] == nil {
			continue
		}
		found, _, err := unstructured.NestedMap(rendered[key].Object, "spec", "template")
		if err != nil {
			t.Fatal(err)
		}
		template := new(corev1.PodTemplateSpec)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(found, template, true); err != nil {
			t.Fatal(err)
		}
		return template
	}
	t.Fatal("the chart has no pods")
	return nil
}

// monitor is what a ServiceMonitor says about one endpoint.
type monitor struct {
	Port, Interval, Scheme string
	TLSConfig              struct {
		ServerName string
		CA         struct{ Secret struct{ Name, Key string } }
	}
	Authorization struct {
		Type        string
		Credentials struct{ Name, Key string }
	}
}

func monitorOf(t *testing.T, rendered map[string]*unstructured.Unstructured) (m monitor, ok bool) {
	t.Helper()
	o := rendered["ServiceMonitor/gl-k8s-integrator"]
	if o == nil {
		return m, false
	}
	text, err := yaml.Marshal(o.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Selector  any
		Endpoints []monitor
	}
	if err := yaml.UnmarshalStrict(text, &spec); err != nil || len(spec.Endpoints) != 1 {
		t.Fatalf("%v in\n%s", err, text)
	}
	return spec.Endpoints[0], true
}

// TestMonitoring: in every variant kubelet and Prometheus speak to the metrics as the configuration demands, and what the
// Prometheus Operator gets is what deploy/monitoring has.
func TestMonitoring(t *testing.T) {
	h := newHelm(t, "")
	var rule unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(read(t, "../../deploy/monitoring/prometheusrule.yaml")), &rule.Object); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for name, file := range variants(t) {
		t.Run(name, func(t *testing.T) {
			rendered := objects(t, h.template(t, "--values", file))
			if o := rendered["PrometheusRule/gl-k8s-integrator"]; o != nil {
				seen["rule"]++
				if diff := cmp.Diff(rule.Object["spec"], o.Object["spec"]); diff != "" {
					t.Errorf("alerts (-deploy/monitoring +chart):\n%s", diff)
				}
			}
			if o := rendered["ConfigMap/gl-k8s-integrator-dashboard"]; o != nil {
				seen["dashboard"]++
				text, _, err := unstructured.NestedString(o.Object, "data", "gl-k8s-integrator.json")
				if err != nil || strings.TrimSpace(text) != strings.TrimSpace(read(t, "../../deploy/monitoring/dashboard.json")) {
					t.Errorf("the dashboard is another one than in deploy/monitoring: %v", err)
				}
			}
			c, pod := configuration(t, rendered), podOf(t, rendered)
			if c == nil {
				c = new(config.Config)
				c.Listeners.Metrics.Address = fmt.Sprintf("0.0.0.0:%d", portOf(pod, "metrics"))
			}
			listener := c.Listeners.Metrics
			scheme, probeScheme := "", corev1.URIScheme("")
			if listener.CertFile != "" {
				scheme, probeScheme = "https", corev1.URISchemeHTTPS
			}
			host, port, _ := strings.Cut(listener.Address, ":")
			if fmt.Sprint(portOf(pod, "metrics")) != port {
				t.Errorf("the pod's port is %d, the program's %s", portOf(pod, "metrics"), port)
			}
			for path, p := range probes(pod) {
				seen["probe "+string(probeScheme)]++
				want := corev1.HTTPGetAction{Path: path, Port: intstr.FromString("metrics"), Scheme: probeScheme}
				if pod.Spec.HostNetwork {
					want.Host = strings.Replace(host, "0.0.0.0", "127.0.0.1", 1)
				}
				for _, get := range p {
					if diff := cmp.Diff(want, *get); diff != "" {
						t.Errorf("kubelet's question (-want +have):\n%s", diff)
					}
				}
			}
			m, ok := monitorOf(t, rendered)
			if !ok {
				return
			}
			seen["monitor "+scheme]++
			if m.Scheme != scheme || (m.TLSConfig.ServerName != "") != (scheme == "https") {
				t.Errorf("Prometheus asks by %+v, the port has the certificate %q", m, listener.CertFile)
			}
			token := ""
			if listener.TokenFile != "" {
				token = filepath.Base(listener.TokenFile)
			}
			if m.Authorization.Credentials.Key != token || (token != "" && m.Authorization.Credentials.Name != "gl-k8s-integrator-files") {
				t.Errorf("Prometheus shows %+v, the token is in %q", m.Authorization, listener.TokenFile)
			}
		})
	}
	for _, what := range []string{"rule", "dashboard", "probe ", "probe HTTPS", "monitor https"} {
		if seen[what] == 0 {
			t.Errorf("no variant has %s: %v", what, seen)
		}
	}
}

func portOf(pod *corev1.PodTemplateSpec, name string) int32 {
	for _, p := range pod.Spec.Containers[0].Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return 0
}

// probes returns what kubelet asks for, by path.
func probes(pod *corev1.PodTemplateSpec) map[string][]*corev1.HTTPGetAction {
	c := pod.Spec.Containers[0]
	return map[string][]*corev1.HTTPGetAction{
		"/healthz": {c.StartupProbe.HTTPGet, c.LivenessProbe.HTTPGet},
		"/readyz":  {c.ReadinessProbe.HTTPGet},
	}
}

// TestNotes: in every variant Helm asks for exactly those files that nothing else gives, and tells what kube-apiserver
// needs for this configuration and no other.
func TestNotes(t *testing.T) {
	h := newHelm(t, "")
	for name, file := range variants(t) {
		t.Run(name, func(t *testing.T) {
			rendered := objects(t, h.template(t, "--values", file))
			_, notes, ok := strings.Cut(h.must(t, "install", release, chartDir, "--dry-run=client", "--values", file), "\nNOTES:\n")
			if !ok {
				t.Fatal("helm prints no notes")
			}
			pod := podOf(t, rendered)
			given := map[string]bool{}
			for _, source := range pod.Spec.Volumes[0].Projected.Sources {
				if source.Secret != nil {
					for _, item := range source.Secret.Items {
						given[item.Path] = true
					}
				}
			}
			want := map[string]bool{}
			if cm := rendered["ConfigMap/gl-k8s-integrator-config"]; cm != nil {
				for _, m := range regexp.MustCompile(inPod+`/([\w.-]+)`).FindAllStringSubmatch(fmt.Sprint(cm.Object["data"]), -1) {
					want[m[1]] = !given[m[1]]
				}
			} else {
				want["config.yaml"], want["read-token"] = true, true
			}
			if m, ok := monitorOf(t, rendered); ok && m.TLSConfig.CA.Secret.Name == "gl-k8s-integrator-files" {
				want[m.TLSConfig.CA.Secret.Key] = true
			}
			asked := map[string]bool{}
			for _, m := range regexp.MustCompile(`--from-file=(\S+)`).FindAllStringSubmatch(notes, -1) {
				asked[m[1]] = true
			}
			for _, f := range slices.Sorted(maps.Keys(want)) {
				if want[f] != asked[f] {
					t.Errorf("the file %s: asked for %v, want %v", f, asked[f], want[f])
				}
			}
			if rendered["ConfigMap/gl-k8s-integrator-config"] != nil {
				for f := range asked {
					if !want[f] {
						t.Errorf("the file %s is asked for, and nothing reads it", f)
					}
				}
			}
			apiserver(t, notes, configuration(t, rendered), pod.Spec.HostNetwork)
		})
	}
}

// apiserver looks at what the notes say of kube-apiserver.
func apiserver(t *testing.T, notes string, c *config.Config, hostNetwork bool) {
	t.Helper()
	if c == nil {
		c = new(config.Config)
	}
	for text, want := range map[string]bool{
		"--authentication-token-webhook-config-file=": !c.Authn.Disabled,
		"/authenticate\n":                  !c.Authn.Disabled,
		"--authentication-config=":         c.Authn.Disabled,
		" apiserver-config --config":       c.Authn.Disabled,
		"/authorize\n":                     c.Authn.Disabled && !c.Authz.Explain.Disabled,
		"--authorization-config=":          !c.Authz.Explain.Disabled,
		"https://127.0.0.1:":               hostNetwork,
		"/gl-k8s-integrator doctor --":     true,
		"/gl-k8s-integrator plan --config": true,
		"exec daemonset/":                  hostNetwork,
		"exec deployment/":                 !hostNetwork,
	} {
		if strings.Contains(notes, text) != want {
			t.Errorf("%q is in the notes: %v, want %v\n%s", text, !want, want, notes)
		}
	}
}

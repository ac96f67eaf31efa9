package chart_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
)

var update = flag.Bool("update", false, "write the files that are made from others")

// same compares a file that is made from others with what it should be, or writes it.
func same(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(have)); diff != "" {
		t.Errorf("%s is stale, run make chart (-want +have):\n%s", path, diff)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestOneSource: roles and policies have their source in deploy/manifests and deploy/optional, alerts and dashboard in
// deploy/monitoring, the program's pods in the chart, kube-apiserver's files in docs/install.md, the keys of the
// configuration in the program. The rest are copies.
func TestOneSource(t *testing.T) {
	for _, folder := range []string{"manifests", "optional"} {
		copies, err := filepath.Glob(filepath.Join(chartDir, "files", folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		sources, err := filepath.Glob(filepath.Join("../../deploy", folder, "*.yaml"))
		if err != nil || len(sources) < 4 {
			t.Fatalf("%d files in deploy/%s: %v", len(sources), folder, err)
		}
		for _, source := range sources {
			if name := filepath.Base(source); name != "deployment.yaml" {
				same(t, filepath.Join(chartDir, "files", folder, name), read(t, source))
			}
		}
		for _, c := range copies {
			if !slices.Contains(sources, filepath.Join("../../deploy", folder, filepath.Base(c))) {
				t.Errorf("%s is a copy of nothing", c)
			}
		}
	}
	for _, name := range []string{"rules.yaml", "dashboard.json"} {
		same(t, filepath.Join(chartDir, "files/monitoring", name), read(t, filepath.Join("../../deploy/monitoring", name)))
	}
	path := filepath.Join(chartDir, "values.schema.json")
	own, _, ok := strings.Cut(read(t, path), `"definitions": `)
	if !ok {
		t.Fatalf("%s has no definitions", path)
	}
	same(t, path, own+`"definitions": `+configSchema(t)+"\n}\n")
	for name, kind := range map[string]string{"webhook.kubeconfig": "yaml kubeconfig", "authorization.yaml": "yaml authorization"} {
		same(t, filepath.Join(chartDir, "files/apiserver", name), block(t, "../../docs/install.md", kind))
	}

	args := []string{"--values", variants(t)["plain"]}
	for _, name := range []string{"workload", "service", "networkpolicy", "poddisruptionbudget"} {
		args = append(args, "--show-only", "templates/"+name+".yaml")
	}
	plain := regexp.MustCompile(`(?m)^# Source: .*\n`).ReplaceAllString(newHelm(t, "").template(t, args...), "")
	plain = strings.TrimPrefix(regexp.MustCompile(`\n+---\n`).ReplaceAllString(plain, "\n---\n"), "---\n")
	same(t, "../../deploy/optional/deployment.yaml", read(t, "testdata/deployment-head.txt")+strings.TrimRight(plain, "\n")+"\n")
}

// configSchema returns the definitions of the values' schema: that of the configuration file, as the program has it,
// without asking for what the chart fills in.
func configSchema(t *testing.T) string {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(read(t, "../../docs/config.schema.json")), &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "$schema")
	filledIn := map[string][]any{
		"": {"apiVersion", "kind"}, "gitlab": {"readTokenFile"}, "listeners.webhooks": {"address", "certFile", "keyFile"},
	}
	for path, keys := range filledIn {
		at := config
		for key := range strings.SplitSeq(path, ".") {
			if key != "" {
				at = at["properties"].(map[string]any)[key].(map[string]any)
			}
		}
		required, _ := at["required"].([]any)
		for _, key := range keys {
			if !slices.Contains(required, key) {
				t.Errorf("the configuration does not demand %s.%s any more: take it out of this test", path, key)
			}
		}
		required = slices.DeleteFunc(required, func(key any) bool { return slices.Contains(keys, key) })
		at["required"] = required
		if len(required) == 0 {
			delete(at, "required")
		}
	}
	// Without any key, the configuration is a file in the Secret.
	config["if"], config["then"] = map[string]any{"minProperties": 1}, map[string]any{"required": config["required"]}
	delete(config, "required")
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("  ", "  ")
	if err := e.Encode(map[string]any{"config": config}); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

// TestKustomization: what `kubectl apply -k deploy` applies are the same files, all of them.
func TestKustomization(t *testing.T) {
	var k struct{ Resources []string }
	if err := yaml.Unmarshal([]byte(read(t, "../../deploy/kustomization.yaml")), &k); err != nil {
		t.Fatal(err)
	}
	want, err := filepath.Glob("../../deploy/manifests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i] = "manifests/" + filepath.Base(want[i])
	}
	if diff := cmp.Diff(append(want, "optional/deployment.yaml"), k.Resources); diff != "" {
		t.Errorf("deploy/kustomization.yaml (-want +have):\n%s", diff)
	}
}

// TestEveryVariant: helm finds no fault in the chart with any of the values, what it renders holds as much as
// deploy/manifests and knows the ClusterRoles of the configuration, and the program takes the configuration.
func TestEveryVariant(t *testing.T) {
	h := newHelm(t, "")
	for name, file := range variants(t) {
		t.Run(name, func(t *testing.T) {
			if out := h.must(t, "lint", "--strict", "--values", file, chartDir); strings.Contains(out, "[WARNING]") || strings.Contains(out, "[ERROR]") {
				t.Error(out)
			}
			rendered := objects(t, h.template(t, "--values", file))
			roles := append(configuredRoles(t, rendered), extraRoles(t, file)...)
			holdsAsMuch(t, rendered, roles)
			for _, o := range rendered {
				if ns := o.GetNamespace(); ns != "" && ns != deploy.Namespace {
					t.Errorf("%s %s is in the namespace %s", o.GetKind(), o.GetName(), ns)
				}
				if wantKept := o.GetKind() == "Namespace" || strings.HasPrefix(o.GetKind(), "ValidatingAdmissionPolicy") || o.GetName() == "gitlab-group-master"; kept(o) != wantKept {
					t.Errorf("%s %s stays after an uninstall: %v, want %v", o.GetKind(), o.GetName(), kept(o), wantKept)
				}
			}
		})
	}
}

// configuredRoles checks the rendered configuration, if there is one, and returns the ClusterRoles that it names.
func configuredRoles(t *testing.T, rendered map[string]*unstructured.Unstructured) (roles []string) {
	t.Helper()
	c := configuration(t, rendered)
	if c == nil {
		return nil
	}
	for _, r := range c.Authz.Roles {
		roles = append(roles, r.ClusterRole)
	}
	for _, r := range c.Authz.Extra {
		roles = append(roles, r.ClusterRole)
	}
	if d := rendered["Deployment/gl-k8s-integrator"]; d != nil && !c.Authz.Explain.Disabled {
		replicas, _, err := unstructured.NestedFloat64(d.Object, "spec", "replicas")
		if err != nil || int(replicas) != c.Authz.Explain.Replicas {
			t.Errorf("%v replicas, authz.explain.replicas is %d: %v", replicas, c.Authz.Explain.Replicas, err)
		}
	}
	return roles
}

func extraRoles(t *testing.T, file string) []string {
	t.Helper()
	var values struct{ ClusterRoles []string }
	if err := yaml.Unmarshal([]byte(read(t, file)), &values); err != nil {
		t.Fatal(err)
	}
	return values.ClusterRoles
}

// holdsAsMuch compares roles and policies with deploy/manifests.
func holdsAsMuch(t *testing.T, rendered map[string]*unstructured.Unstructured, roles []string) {
	t.Helper()
	into := func(key string, typed any) {
		t.Helper()
		if rendered[key] == nil {
			t.Fatalf("the chart has no %s", key)
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(rendered[key].Object, typed, true); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range deploy.Policies() {
		var policy admissionv1.ValidatingAdmissionPolicy
		var binding admissionv1.ValidatingAdmissionPolicyBinding
		into("ValidatingAdmissionPolicy/"+name, &policy)
		into("ValidatingAdmissionPolicyBinding/"+name, &binding)
		if err := deploy.Verify(&policy, &binding); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == deploy.TenantFence {
			if err := deploy.VerifyRoles(&policy, roles); err != nil {
				t.Error(err)
			}
		}
	}
	// Everything else of deploy/manifests is there as it is, but for the ClusterRoles that may be bound.
	manifests, err := deploy.Manifests()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifests {
		key := m.GetKind() + "/" + m.GetName()
		if strings.HasPrefix(key, "ValidatingAdmissionPolicy/") || m.GetKind() == "Namespace" {
			continue
		}
		if rendered[key] == nil {
			t.Errorf("the chart has no %s", key)
			continue
		}
		have := rendered[key].DeepCopy()
		have.SetAnnotations(nil)
		if key == "ClusterRole/"+deploy.ServiceAccount {
			var role, want rbacv1.ClusterRole
			into(key, &role)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(m.Object, &want); err != nil {
				t.Fatal(err)
			}
			for i, rule := range want.Rules {
				if slices.Contains(rule.Verbs, "bind") {
					rule.ResourceNames = append(rule.ResourceNames, roles...)
					slices.Sort(rule.ResourceNames)
					want.Rules[i].ResourceNames = slices.Compact(rule.ResourceNames)
					slices.Sort(role.Rules[i].ResourceNames)
				}
			}
			if diff := cmp.Diff(want.Rules, role.Rules); diff != "" {
				t.Errorf("%s (-want +have):\n%s", key, diff)
			}
			continue
		}
		if diff := cmp.Diff(m.Object, have.Object); diff != "" {
			t.Errorf("%s (-want +have):\n%s", key, diff)
		}
	}
}

// TestWrongValues: a mistake in the values is named before anything is written.
func TestWrongValues(t *testing.T) {
	h := newHelm(t, "")
	const least = "config.gitlab.url=https://gitlab.example.com,config.authn.clientIDs={kubelogin}"
	for wrong, says := range map[string]string{
		"config.gitlab.ulr=x":                                     "at '/config/gitlab': additional properties 'ulr' not allowed",
		"config.authz.roles[0].levels=owner":                      "/config/authz/roles/0",
		"config.rbacsync.mode=enfroce":                            "at '/config/rbacsync/mode'",
		"config.rbacsync.interval=5":                              "at '/config/rbacsync/interval'",
		"replicas=2,config.gitlab.url=https://gitlab.example.com": "at '/config': missing property 'authn'",
		"replicas=2,config.authn.clientIDs={kubelogin}":           "at '/config': missing property 'gitlab'",
		"config.listeners.metrics.address=0.0.0.0:9191":           "config.listeners.metrics.address: its port has to be ports.metrics (9090)",
		"certManager.enabled=true,service.clusterIP=10.96.0.53,protectMetrics=true,secrets.metrics=tls": "leave secrets.metrics empty",
		"config.web.clientID=x":                                   "config.web is set: set web: true",
		"web=true,ingress.enabled=true":                           "and config.web.url to the URL of the page",
		"replicsa=3":                                              "additional properties 'replicsa' not allowed",
		"replicas=0":                                              "minimum",
		"image.digest=sha256:abc":                                 "/image/digest",
		"ports.webhooks=443":                                      "/ports/webhooks",
		"networkPolicy.apiServers={192.0.2.1}":                    "/networkPolicy/apiServers",
		"config.cluster.kubeconfig=/etc/kubeconfig":               "leave it out",
		"config.rbacsync.deletion.policy=delete":                  "set namespaceDeletion: true",
		"config.rbacsync.templates.folder=/etc/gl-k8s-integrator": "set templates: true",
		"clusterRoles={cluster-admin}":                            "no ClusterRole that tenants can have",
		"clusterRoles={x'y}":                                      "no ClusterRole that tenants can have",
		"certManager.enabled=true":                                "set service.clusterIP",
		"certManager.enabled=true,secrets.webhooks=tls":           "leave secrets.webhooks empty",
		"certManager.hooks.dnsNames={integrator.example.com}":     "set issuerRef",
		"serviceMonitor.enabled=true,hostNetwork=true":            "config.listeners.metrics.address",
		"config.listeners.metrics.address=0.0.0.0:9090,serviceMonitor.enabled=true,hostNetwork=true": "set protectMetrics",
	} {
		args := []string{"template", release, chartDir, "--set", wrong}
		if strings.HasPrefix(wrong, "config.") {
			args = append(args[:3:3], "--set", least, "--set", wrong)
		}
		if _, err := h.run(t, args...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("--set %s: want an error that says %q, have %v", wrong, says, err)
		}
	}
	h.namespace = "elsewhere"
	if _, err := h.run(t, "template", release, chartDir); err == nil || !strings.Contains(err.Error(), "--namespace gl-k8s-integrator") {
		t.Errorf("in another namespace: %v", err)
	}
}

// TestSchemaAndValuesAgree: each value that the schema allows has its default and its comment in values.yaml.
func TestSchemaAndValuesAgree(t *testing.T) {
	type schema struct {
		Properties           map[string]*schema
		AdditionalProperties any
	}
	var s schema
	if err := json.Unmarshal([]byte(read(t, filepath.Join(chartDir, "values.schema.json"))), &s); err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict([]byte(read(t, filepath.Join(chartDir, "values.yaml"))), &values); err != nil {
		t.Fatal(err)
	}
	delete(s.Properties, "global") // helm's own
	var compare func(at string, s *schema, values map[string]any)
	compare = func(at string, s *schema, values map[string]any) {
		if s.AdditionalProperties != false {
			t.Errorf("the schema lets anything be at %q", at)
		}
		have, want := slices.Sorted(maps.Keys(values)), slices.Sorted(maps.Keys(s.Properties))
		if diff := cmp.Diff(want, have); diff != "" && at != "certManager.hooks.issuerRef." {
			t.Errorf("at %q (-schema +values.yaml):\n%s", at, diff)
		}
		for key, sub := range s.Properties {
			if below, ok := values[key].(map[string]any); ok && len(sub.Properties) > 0 {
				compare(at+key+".", sub, below)
			}
		}
	}
	compare("", &s, values)
}

// Package monitoring_test checks the alerts and the dashboard against each other, the docs and Prometheus' own tool.
package monitoring_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write prometheusrule.yaml anew")

const (
	runbooks = "https://github.com/gl-k8s-integrator/gl-k8s-integrator/blob/main/docs/alerts.md#"
	object   = `# The alerts of rules.yaml for the Prometheus Operator. Made from that file: go test ./deploy/monitoring -update
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: gl-k8s-integrator
  namespace: gl-k8s-integrator
  labels: # and those that the ruleSelector of your Prometheus asks for
    app.kubernetes.io/name: gl-k8s-integrator
spec:
`
)

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// alerts returns those of rules.yaml.
func alerts(t *testing.T) []rule {
	t.Helper()
	var f ruleFile
	if err := yaml.UnmarshalStrict([]byte(read(t, "rules.yaml")), &f); err != nil {
		t.Fatal(err)
	}
	var out []rule
	for _, g := range f.Groups {
		out = append(out, g.Rules...)
	}
	if len(out) < 10 {
		t.Fatalf("only %d alerts were found", len(out))
	}
	return out
}

// TestOneSource: the object for the Prometheus Operator holds what the rules file holds.
func TestOneSource(t *testing.T) {
	source := read(t, "rules.yaml")
	_, groups, _ := strings.Cut(source, "\ngroups:\n")
	want := object + "  groups:\n"
	for line := range strings.Lines(groups) {
		want += "  " + line
	}
	if *update {
		if err := os.WriteFile("prometheusrule.yaml", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, "prometheusrule.yaml") != want {
		t.Error("prometheusrule.yaml is stale: go test ./deploy/monitoring -update")
	}
	var rules ruleFile
	var o struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       ruleFile       `json:"spec"`
	}
	if err := yaml.UnmarshalStrict([]byte(source), &rules); err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(want), &o); err != nil || fmt.Sprint(o.Spec) != fmt.Sprint(rules) {
		t.Errorf("the object is not the rules: %v", err)
	}
}

// TestEveryAlertHasItsRunbook: and each section of docs/alerts.md its alert.
func TestEveryAlertHasItsRunbook(t *testing.T) {
	const page = "../../docs/alerts.md"
	sections := map[string]string{}
	for _, s := range strings.Split(read(t, page), "\n## ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		sections[name] = text
	}
	for _, a := range alerts(t) {
		if !regexp.MustCompile(`^GlK8sIntegrator[A-Z][A-Za-z]+$`).MatchString(a.Alert) || a.For == "" || !slices.Contains([]string{"warning", "critical"}, a.Labels["severity"]) ||
			a.Annotations["summary"] == "" || a.Annotations["description"] == "" || a.Annotations["runbook_url"] != runbooks+strings.ToLower(a.Alert) {
			t.Errorf("%s lacks something: %v", a.Alert, a)
		}
		text, ok := sections[a.Alert]
		at := -1
		for _, part := range []string{"**What happened.** ", "**How to see.** ", "**What to do.** "} {
			i := strings.Index(text, "\n"+part)
			if i <= at {
				t.Errorf("%s: its section in %s (there: %v) does not say, in this order: %s", a.Alert, page, ok, part)
			}
			at = i
		}
		delete(sections, a.Alert)
	}
	for name := range sections {
		t.Errorf("%s has a section %q, and there is no such alert", page, name)
	}
}

// TestFilesAreOnThePage: the table at the top of docs/alerts.md names each file of this folder.
func TestFilesAreOnThePage(t *testing.T) {
	files, err := filepath.Glob("*.[yj]*")
	if err != nil || len(files) < 6 {
		t.Fatalf("%q: %v", files, err)
	}
	head, _, _ := strings.Cut(read(t, "../../docs/alerts.md"), "\n## ")
	var named []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`.+?) \\|").FindAllStringSubmatch(head, -1) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			named = append(named, m[1])
		}
	}
	slices.Sort(named)
	if !slices.Equal(named, files) {
		t.Errorf("the page names %q, there are %q", named, files)
	}
}

// expression is a part of the alerts or of the dashboard that names metrics.
type expression struct{ where, text string }

var grafana = strings.NewReplacer("$__rate_interval", "5m", `=~"$job"`, `=~".*"`, `=~"$namespace"`, `=~".*"`)

// dashboard returns its expressions, and checks what Grafana would only show to somebody.
func dashboard(t *testing.T) []expression {
	t.Helper()
	var d struct {
		UID, Title string
		Panels     []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  struct{ X, Y, W, H int }
			Datasource               struct{ UID string }
			Targets                  []struct{ Expr, RefID string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	var out []expression
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if p.Title == "" || ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W < 1 || p.GridPos.H < 1 {
			t.Errorf("panel %d %q: no title, a second one of its id, or not on the page: %+v", p.ID, p.Title, p.GridPos)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("panels %q and %q overlap", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "" || p.Datasource.UID != "${datasource}") {
			t.Errorf("panel %q lacks targets, a description, or the data source of the variable", p.Title)
		}
		for _, target := range p.Targets {
			if target.RefID == "" {
				t.Errorf("panel %q: a target without refId", p.Title)
			}
			out = append(out, expression{"panel " + p.Title, grafana.Replace(target.Expr)})
		}
	}
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
		if m := regexp.MustCompile(`^label_values\((\w+), \w+\)$`).FindStringSubmatch(v.Definition); m != nil {
			out = append(out, expression{"variable " + v.Name, m[1]})
		}
	}
	if len(out) < 30 || !variables["datasource"] || !variables["job"] || !variables["namespace"] || d.UID == "" || d.Title == "" {
		t.Errorf("the dashboard has %d expressions, variables %v", len(out), variables)
	}
	return out
}

var (
	metricRow = regexp.MustCompile("(?m)^\\| `(gl_k8s_integrator_\\w+)` \\| (\\w+) \\| (.*?) \\|")
	quoted    = regexp.MustCompile(`"[^"]*"`)
	metric    = regexp.MustCompile(`\b((?:gl_k8s_integrator|go|process)_\w+)(\{[^}]*\})?`)
	matcher   = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`)
	grouping  = regexp.MustCompile(`\b(?:by|ignoring|on)\s*\(([^)]*)\)`)
	target    = []string{"job", "namespace", "cluster", "instance"} // labels that the scrape adds
)

// metrics returns the labels of each metric that an expression may name: of docs/metrics.md, which another test compares with
// the program, and of client_golang.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, m := range metricRow.FindAllStringSubmatch(read(t, "../../docs/metrics.md"), -1) {
		labels := strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune("`, ", r) })
		out[m[1]] = labels
		if m[2] == "histogram" {
			delete(out, m[1])
			out[m[1]+"_bucket"], out[m[1]+"_sum"], out[m[1]+"_count"] = append(labels, "le"), labels, labels
		}
	}
	if len(out) < 25 {
		t.Fatalf("only %d metrics were found", len(out))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		out[f.GetName()] = nil
	}
	return out
}

// TestExpressionsNameWhatThereIs: each metric of an alert or a panel exists with the labels that the expression names, and so
// does each code of a finding and each key of the configuration.
func TestExpressionsNameWhatThereIs(t *testing.T) {
	known := metrics(t)
	findings, keys := read(t, "../../docs/operations.md")+read(t, "../../docs/ci.md"), read(t, "../../docs/configuration.md")
	all := dashboard(t)
	for _, a := range alerts(t) {
		all = append(all, expression{a.Alert, a.Expr})
	}
	for _, e := range all {
		labels := slices.Clone(target)
		found := metric.FindAllStringSubmatch(e.text, -1)
		if len(found) == 0 {
			t.Errorf("%s names no metric", e.where)
		}
		for _, m := range found {
			own, ok := known[m[1]]
			if !ok {
				t.Errorf("%s names %s, which does not exist", e.where, m[1])
			}
			labels = append(labels, own...)
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(own, l[1]) && !slices.Contains(target, l[1]) {
					t.Errorf("%s: %s has no label %s", e.where, m[1], l[1])
				}
				if l[1] == "code" && !strings.Contains(findings, "`"+l[2]+"`") || l[1] == "key" && !strings.Contains(keys, "`"+l[2]+"`") {
					t.Errorf("%s: nothing is called %s", e.where, l[2])
				}
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(quoted.ReplaceAllString(e.text, ""), -1) {
			for l := range strings.SplitSeq(g[1], ",") {
				if !slices.Contains(labels, strings.TrimSpace(l)) {
					t.Errorf("%s: no metric of it has the label %s", e.where, l)
				}
			}
		}
	}
}

// ruleTests are the files that promtool runs.
var ruleTests = []string{"rules_test.yaml", "rules_days_test.yaml"}

// TestEveryAlertIsTested: on what it fires on, and on what it does not.
func TestEveryAlertIsTested(t *testing.T) {
	fires, silent := map[string]int{}, map[string]int{}
	for _, name := range ruleTests {
		var f struct {
			Tests []struct {
				AlertTests []struct {
					Alert string `json:"alertname"`
					Want  []any  `json:"exp_alerts"`
				} `json:"alert_rule_test"`
			} `json:"tests"`
		}
		if err := yaml.Unmarshal([]byte(read(t, name)), &f); err != nil {
			t.Fatal(err)
		}
		for _, test := range f.Tests {
			for _, a := range test.AlertTests {
				if len(a.Want) > 0 {
					fires[a.Alert]++
				} else {
					silent[a.Alert]++
				}
			}
		}
	}
	for _, a := range alerts(t) {
		if fires[a.Alert] == 0 || silent[a.Alert] == 0 {
			t.Errorf("%s fires in %d tests, and does not in %d: want some of both", a.Alert, fires[a.Alert], silent[a.Alert])
		}
		delete(fires, a.Alert)
		delete(silent, a.Alert)
	}
	if len(fires)+len(silent) > 0 {
		t.Errorf("there are tests of alerts that don't exist: %v %v", fires, silent)
	}
}

// promtool runs Prometheus' own tool.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestPromtool: Prometheus takes the rules, the scrape configuration and the dashboard's expressions, and each alert fires when
// it should and not else.
func TestPromtool(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("needs promtool, of Debian's package prometheus (.ci/run installs it)")
	}
	promtool(t, "check", "rules", "rules.yaml")
	promtool(t, append([]string{"test", "rules"}, ruleTests...)...)

	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	panels := "groups:\n- name: dashboard\n  rules:\n"
	for i, e := range dashboard(t) {
		panels += fmt.Sprintf("  - {record: \"panel:%d\", expr: %q}\n", i, e.text)
	}
	promtool(t, "check", "rules", write("panels.yaml", panels))

	scrape := read(t, "scrape.yaml")
	for old, file := range map[string]string{
		"/etc/prometheus/gl-k8s-integrator-token": write("token", "x"), "/etc/prometheus/gl-k8s-integrator-ca.crt": write("ca.crt", ""),
		"/etc/prometheus/gl-k8s-integrator-rules.yaml": write("rules.yaml", read(t, "rules.yaml")),
	} {
		if !strings.Contains(scrape, old) {
			t.Errorf("scrape.yaml does not name %s", old)
		}
		scrape = strings.ReplaceAll(scrape, old, file)
	}
	promtool(t, "check", "config", write("prometheus.yml", scrape))
}

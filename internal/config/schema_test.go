package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

const schemaFile = "../../docs/config.schema.json"

// TestSchemaIsUpToDate: the file that editors are pointed to is what the program prints.
func TestSchemaIsUpToDate(t *testing.T) {
	want, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have, err := os.ReadFile(schemaFile); err != nil || !bytes.Equal(have, want) {
		t.Errorf("docs/config.schema.json is stale (%v): go test ./internal/config -update", err)
	}
}

// judge returns what a library of others says of a file by our schema.
func judge(t *testing.T) func(data []byte) error {
	t.Helper()
	text, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("config.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(data []byte) error {
		file, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return err
		}
		return schema.Validate(file)
	}
}

var anyConfig = regexp.MustCompile(`(?s)^(# [^\n]*\n)*apiVersion: gl-k8s-integrator/v1alpha1\n`)

// TestEverySampleFitsTheSchema: every configuration in the pages and among the files to install.
func TestEverySampleFitsTheSchema(t *testing.T) {
	valid := judge(t)
	seen := map[string]int{}
	check := func(path, text string) {
		seen[filepath.Ext(path)]++
		data, err := yaml.YAMLToJSON([]byte(text))
		if err == nil {
			err = valid(data)
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	check("minimal.go", minimal)
	check("full.go", full)
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../deploy/*.yaml", "../../deploy/*/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range configBlock.FindAllStringSubmatch(string(text), -1) {
				check(path, m[1])
			}
			if filepath.Ext(path) == ".yaml" && anyConfig.Match(text) {
				check(path, string(text))
			}
		}
	}
	if seen[".md"] == 0 || seen[".yaml"] == 0 {
		t.Errorf("files with configurations: %v", seen)
	}
}

// full sets every key.
const full = `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: "https://gitlab.example.com", caFile: /ca, readTokenFile: /r, writeTokenFile: /w, sampleSize: 10}
cluster: {kubeconfig: /k, name: icc, publicURL: "https://icc.example.com:6443", publicCAFile: /p, replaces: [unnamed, 0f8fad5b-d9cb-469f-a165-70867728950e]}
listeners:
  webhooks: {address: "0.0.0.0:8443", certFile: /c, keyFile: /k, clientCAFile: /ca, maxInFlight: 100}
  hooks: {address: "0.0.0.0:8444", certFile: /c, keyFile: /k, secretFile: /s, signingKeyFile: /t}
  metrics: {address: "127.0.0.1:9090"}
  web: {address: "0.0.0.0:8445", certFile: /c, keyFile: /k}
  drainDelay: 5s
authn:
  disabled: false
  clientIDs: [5f1c, 6a2d]
  leeway: 10s
  keyRefresh: 5m
  keyMaxAge: 24h
  keys: {url: "https://gitlab.internal.example.com/oauth/discovery/keys"}
  maxTokenBytes: 65536
  apiAudiences: [kubernetes]
  require: {mappedRight: true, groups: [7]}
  ci: {audience: icc, issuer: "https://gitlab.example.com", maxAge: 1h30m}
authz:
  roles: [{clusterRole: edit, levels: [maintainer, owner]}, {clusterRole: view, levels: [developer]}]
  kinds: [group, project, user]
  reservedNames: [web, "db-*"]
  bots: true
  exclude: {sources: [group/9], paths: [sandbox], people: ["temp-*"]}
  extra: [{source: group/7, path: haw, below: true, clusterRole: admin, levels: [owner], group: 8, groupPath: ops}]
  archived: none
  markedForDeletion: keep
  loginHint: Log in.
  explain: {disabled: false, replicas: 2}
rbacsync:
  mode: enforce
  interval: 10m
  podSecurity: restricted
  podSecurityExceptions: [{source: project/1, level: baseline}]
  concurrency: 4
  writesPerSecond: 2.5
  deletion: {policy: delete, grace: 168h}
  adopt: [{namespace: monitoring, source: group/1, path: ops}]
  templates: {folder: "", kinds: [ResourceQuota]}
  limits:
    perGroup: {count: 5, fraction: 0.2}
    overall: {count: 50, fraction: 0.02}
    policy: {count: 10, fraction: 0}
    window: 1h
    creationsPerHour: 20
    creationsExempt: [3]
    disabled: false
ci:
  delivery: variables
  environment: ICC-K8s
  unprotectedProjects: [42]
  explain: true
  kubeconfigToken: file
  tokenLifetime: 720h
  handover: 1h
  tokenHold: 0s
  projects: [{source: project/42, path: haw/world, delivery: none, namespace: group, explain: false, kubeconfigToken: variable}]
  agent: {id: 9, name: icc, configProject: project/12, kasURL: "https://kas.example.com/k8s-proxy/"}
web: {url: "https://icc.example.com", clientID: 7b3e, clientSecretFile: /s, sessionKeyFile: /sk, adminGroup: 7, language: de}
history: {days: 365, pseudonymiseAfter: 168h, maxBytes: 1048576}
`

// tree returns a file as a value that can be changed.
func tree(t *testing.T, text string) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// places calls f for each section, with each of its keys, and for each element of a list.
func places(node any, f func(change func(any), value any, section map[string]any, key string)) {
	switch node := node.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(node)) {
			f(func(v any) { node[key] = v }, node[key], node, key)
			places(node[key], f)
		}
	case []any:
		for i := range node {
			f(func(v any) { node[i] = v }, node[i], nil, "")
			places(node[i], f)
		}
	}
}

// mutate makes one change somewhere, and says which.
func mutate(file map[string]any, r *rand.Rand) string {
	type place struct {
		change  func(any)
		value   any
		section map[string]any
		key     string
	}
	var all []place
	places(file, func(change func(any), value any, section map[string]any, key string) {
		all = append(all, place{change, value, section, key})
	})
	p := all[r.IntN(len(all))]
	if p.section != nil && r.IntN(2) == 0 {
		names := []string{strings.ToUpper(p.key), p.key + "s", p.key[1:] + "x", strings.ToUpper(p.key[:1]) + p.key[1:], "extra", p.key + " "}
		name := names[r.IntN(len(names))]
		switch r.IntN(3) {
		case 0:
			delete(p.section, p.key)
			return "without " + p.key
		case 1:
			delete(p.section, p.key)
		}
		p.section[name] = p.value
		return fmt.Sprintf("%s as %s", p.key, name)
	}
	values := []any{"text", "5m", "-5m", "5", "5 m", "1h-2m", "group/1", 7, -7, 1.5, 0.25, true, false, []any{}, []any{"a"}, []any{1}, map[string]any{}, map[string]any{"a": 1}, []any{map[string]any{}}}
	v := values[r.IntN(len(values))]
	p.change(v)
	return fmt.Sprintf("%s is %v", p.key, v)
}

// TestWhatTheLoaderRefusesTheSchemaRefuses: over thousands of mutated files, whatever the loader refuses by the structure
// of the file the schema refuses too, and the schema refuses nothing that the loader takes, but for a section or list
// without anything in it, which the loader takes as if it were not there.
func TestWhatTheLoaderRefusesTheSchemaRefuses(t *testing.T) {
	valid := judge(t)
	seen := map[string]int{}
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 13))
		file := tree(t, full)
		if seed%2 == 0 {
			file = tree(t, minimal)
		}
		var what []string
		for range 1 + r.IntN(2) {
			what = append(what, mutate(file, r))
		}
		data, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		faults, err := config.StructuralFaults(data)
		if err != nil {
			t.Fatal(err)
		}
		_, loadErr := config.Parse(data)
		schemaErr := valid(data)
		switch {
		case len(faults) > 0 && schemaErr == nil:
			t.Errorf("seed %d (%s): the loader says %v, the schema nothing", seed, strings.Join(what, ", "), faults)
		case loadErr == nil && schemaErr != nil && !bytes.Contains(data, []byte("[]")) && !bytes.Contains(data, []byte("{}")):
			t.Errorf("seed %d (%s): the loader takes it, the schema says %v", seed, strings.Join(what, ", "), schemaErr)
		}
		seen[fmt.Sprint(len(faults) > 0, loadErr != nil, schemaErr != nil)]++
	}
	for _, kind := range []string{"true true true", "false true true", "false false false"} {
		if seen[kind] < 20 {
			t.Errorf("files by (structural fault, fault, refused by the schema): %v", seen)
		}
	}
}

// without takes a key out of a file, of lists out of the first element.
func without(file map[string]any, path string) {
	name, rest, deeper := strings.Cut(path, ".")
	name = strings.TrimSuffix(name, "[]")
	if !deeper {
		delete(file, name)
		return
	}
	next := file[name]
	if list, ok := next.([]any); ok {
		next = list[0]
	}
	without(next.(map[string]any), rest)
}

// TestSchemaDemandsWhatTheLoaderDemands: without a key that the schema demands the loader takes no file either, and without
// any other one the schema is content.
func TestSchemaDemandsWhatTheLoaderDemands(t *testing.T) {
	valid := judge(t)
	keys, err := config.Keys()
	if err != nil {
		t.Fatal(err)
	}
	required := 0
	for _, k := range keys {
		file := tree(t, full)
		without(file, k.Path)
		data, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		schemaErr := valid(data)
		if k.Required != (schemaErr != nil) {
			t.Errorf("without %s, required %v: the schema says %v", k.Path, k.Required, schemaErr)
		}
		if !k.Required {
			continue
		}
		required++
		if _, err := config.Parse(data); err == nil {
			t.Errorf("without %s, which the schema demands, the loader takes the file", k.Path)
		}
	}
	if required < 12 {
		t.Errorf("only %d keys are required", required)
	}
}

package rbacsync

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// TemplateKind is a namespaced kind that templates may have.
type TemplateKind struct {
	schema.GroupVersionKind
	Resource string
}

// defaultKinds are the kinds that the optional role in deploy/ and our cage allow.
var defaultKinds = []TemplateKind{
	{schema.GroupVersionKind{Version: "v1", Kind: "ResourceQuota"}, "resourcequotas"},
	{schema.GroupVersionKind{Version: "v1", Kind: "LimitRange"}, "limitranges"},
	{schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy"}, "networkpolicies"},
	{schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, "configmaps"},
	{schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, "secrets"},
}

// DefaultTemplateKinds names the kinds that the optional role in deploy/ and our cage allow.
func DefaultTemplateKinds() []string {
	out := make([]string, 0, len(defaultKinds))
	for _, k := range defaultKinds {
		out = append(out, k.Kind)
	}
	return out
}

var kindForm = regexp.MustCompile(`^([A-Z][A-Za-z0-9]*)\.(v[0-9][a-z0-9]*)\.([a-z0-9.-]+)/([a-z0-9]+)$`)

// ParseTemplateKind reads one of DefaultTemplateKinds, or "Kind.version.group/resource" for another kind. Kinds that
// hand out rights or run something as somebody are refused: rights come from GitLab alone.
func ParseTemplateKind(s string) (TemplateKind, error) {
	if i := slices.IndexFunc(defaultKinds, func(k TemplateKind) bool { return k.Kind == s }); i >= 0 {
		return defaultKinds[i], nil
	}
	m := kindForm.FindStringSubmatch(s)
	if m == nil {
		return TemplateKind{}, fmt.Errorf("%q: want one of %s, or Kind.version.group/resource such as CiliumNetworkPolicy.v2.cilium.io/ciliumnetworkpolicies",
			s, strings.Join(DefaultTemplateKinds(), ", "))
	}
	switch m[3] {
	case "rbac.authorization.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "admissionregistration.k8s.io", "apps", "batch", "certificates.k8s.io":
		return TemplateKind{}, fmt.Errorf("%q can't be a template: kinds that hand out rights or run something stay out", s)
	}
	return TemplateKind{schema.GroupVersionKind{Group: m[3], Version: m[2], Kind: m[1]}, m[4]}, nil
}

// GVR returns what the API server calls the kind.
func (k TemplateKind) GVR() schema.GroupVersionResource {
	return k.GroupVersion().WithResource(k.Resource)
}

// Secret reports whether objects of the kind may be asked for by name alone.
func (k TemplateKind) Secret() bool { return k.Kind == "Secret" && k.Group == "" }

// Annotations of a manifest that say what it is for; they are not written into the cluster.
const (
	// forAnnotation lists kinds and ids, "project, group/7"; without it a template is for every namespace.
	forAnnotation = "gl-k8s-integrator.io/for"
	// copyAnnotation names the Secret of our own namespace whose data a Secret gets.
	copyAnnotation = "gl-k8s-integrator.io/copy-from"
	// SharedSecretPrefix starts the names of Secrets that may be copied: not those with our own state.
	SharedSecretPrefix = "gl-k8s-integrator-shared-" //nolint:gosec // a name
	// templateSecret is the one name of a Secret that is allowed beside those that start with templateSecrets.
	templateSecret  = "gitlab-pull-secret" //nolint:gosec // a name
	templateSecrets = "gitlab-template-"   //nolint:gosec // a name

	maxTemplate = 128 << 10
)

// Template is one manifest that namespaces get an object from.
type Template struct {
	Kind     TemplateKind
	Name     string
	CopyFrom string // name of a Secret
	file     string
	sources  map[authz.SourceID]bool // that it is for: an ID of 0 is all of the kind, and the zero value is all there are
	content  map[string]any          // without metadata.name, status and our annotations
	uses     []string                // the fields in it
	sum      string
}

func (t *Template) KeyName() string { return t.Kind.Kind + "/" + t.Name }

// rank is 3 for a source named by id, 2 for its kind, 1 for a template for all, 0 for none of them.
func (t *Template) rank(id authz.SourceID) int {
	switch {
	case t.sources[id]:
		return 3
	case t.sources[authz.SourceID{Kind: id.Kind}]:
		return 2
	case t.sources[authz.SourceID{}]:
		return 1
	}
	return 0
}

// Templates are all manifests of a folder.
type Templates struct {
	Kinds []TemplateKind
	List  []*Template
}

// LoadTemplates reads and checks every *.yaml file of a folder. The error holds all faults.
func LoadTemplates(folder fs.FS, kinds []TemplateKind) (*Templates, error) {
	names, err := fs.Glob(folder, "*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing templates: %w", err)
	}
	t := &Templates{Kinds: kinds}
	var errs []error
	for _, name := range names {
		data, err := fs.ReadFile(folder, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
		for n := 1; ; n++ {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			where := fmt.Sprintf("%s, document %d", name, n)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", where, err))
				break
			}
			tpl, faults := parseTemplate(where, doc, kinds)
			for _, f := range faults {
				errs = append(errs, fmt.Errorf("%s: %w", where, f))
			}
			if tpl != nil && len(faults) == 0 {
				t.List = append(t.List, tpl)
			}
		}
	}
	if len(names) == 0 {
		errs = append(errs, errors.New("there is no *.yaml file in the folder"))
	}
	for i, a := range t.List {
		for _, b := range t.List[:i] {
			if a.KeyName() == b.KeyName() && a.clashes(b) {
				errs = append(errs, fmt.Errorf("%s and %s: both make the %s %q for the same namespaces: distinguish them by %s", b.file, a.file, a.Kind.Kind, a.Name, forAnnotation))
			}
		}
	}
	return t, errors.Join(errs...)
}

// clashes reports whether no rule says which of two templates of one object counts.
func (t *Template) clashes(o *Template) bool {
	for id := range t.sources {
		if o.sources[id] {
			return true
		}
	}
	return false
}

// parseTemplate returns nil for a document without content.
func parseTemplate(where string, doc []byte, kinds []TemplateKind) (*Template, []error) {
	if len(bytes.TrimSpace(doc)) == 0 {
		return nil, nil
	}
	if len(doc) > maxTemplate {
		return nil, []error{fmt.Errorf("larger than %d KiB", maxTemplate>>10)}
	}
	var o unstructured.Unstructured
	if err := yaml.UnmarshalStrict(doc, &o.Object); err != nil {
		return nil, []error{fmt.Errorf("not valid YAML: %w", err)}
	}
	if len(o.Object) == 0 {
		return nil, nil
	}
	if o.GetAPIVersion() == "" || o.GetKind() == "" {
		return nil, []error{errors.New("apiVersion or kind is missing")}
	}
	gvk := o.GroupVersionKind()
	i := slices.IndexFunc(kinds, func(k TemplateKind) bool { return k.GroupVersionKind == gvk })
	if i < 0 {
		return nil, []error{fmt.Errorf("%s %s is not among rbacsync.templates.kinds", o.GetAPIVersion(), o.GetKind())}
	}
	t := &Template{
		Kind: kinds[i], Name: o.GetName(), CopyFrom: o.GetAnnotations()[copyAnnotation],
		file: where, sources: map[authz.SourceID]bool{},
	}
	faults := slices.Concat(metadataFaults(o), t.readFor(o.GetAnnotations()), reservedFaults(o), t.secretFaults(o))
	return t, append(faults, t.take(o)...)
}

// metadataFaults says what of a manifest's metadata the API server would not take, or would not be the same in each namespace.
func metadataFaults(o unstructured.Unstructured) (faults []error) {
	for _, e := range validation.IsDNS1123Subdomain(o.GetName()) {
		faults = append(faults, fmt.Errorf("metadata.name %q: %s", o.GetName(), e))
	}
	if o.GetNamespace() != "" || o.GetGenerateName() != "" {
		faults = append(faults, errors.New("metadata may not have a namespace or generateName: each namespace gets the object under its name"))
	}
	for _, name := range []string{"labels", "annotations"} {
		if _, _, err := unstructured.NestedStringMap(o.Object, "metadata", name); err != nil { // then none of them would count
			faults = append(faults, fmt.Errorf("metadata.%s: each value is a string: put numbers, true and false in quotes", name))
		}
	}
	return faults
}

// reservedFaults says what of a manifest's labels and annotations is not for manifests.
func reservedFaults(o unstructured.Unstructured) (faults []error) {
	for _, m := range []map[string]string{o.GetAnnotations(), o.GetLabels()} {
		for k := range m {
			if (strings.Contains(k, "gl-k8s-integrator.io/") && k != forAnnotation && k != copyAnnotation) || k == kubename.LabelManagedBy {
				faults = append(faults, fmt.Errorf("metadata: %q is set by this program alone", k))
			}
		}
	}
	return faults
}

// readFor reads which sources the template is for.
func (t *Template) readFor(notes map[string]string) (faults []error) {
	list, ok := notes[forAnnotation]
	if !ok {
		t.sources[authz.SourceID{}] = true
		return nil
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		switch kind := authz.SourceKind(item); kind {
		case authz.GroupSource, authz.ProjectSource, authz.UserSource:
			t.sources[authz.SourceID{Kind: kind}] = true
			continue
		}
		id, ok := authz.ParseLabel(strings.Replace(item, "/", "-", 1))
		if !ok {
			faults = append(faults, fmt.Errorf("%s: want group, project, user, or an id such as group/7, not %q", forAnnotation, item))
		}
		t.sources[id] = true
	}
	return faults
}

// secretFaults looks at the rules for Secrets, and for what is copied.
func (t *Template) secretFaults(o unstructured.Unstructured) (faults []error) {
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if t.Kind.Secret() {
		if t.Name != templateSecret && !strings.HasPrefix(t.Name, templateSecrets) {
			bad("a Secret is named %s or %s…", templateSecret, templateSecrets)
		}
		if kind, _ := o.Object["type"].(string); kind != "Opaque" && kind != "kubernetes.io/dockerconfigjson" {
			bad("the type of a Secret is Opaque or kubernetes.io/dockerconfigjson, not %q", kind)
		}
		if t.CopyFrom == "" || o.Object["data"] != nil || o.Object["stringData"] != nil {
			bad("a Secret has no data of its own: it names a Secret of our namespace in the annotation %s", copyAnnotation)
		}
	}
	if t.CopyFrom != "" && (t.Kind.Kind != "Secret" || !strings.HasPrefix(t.CopyFrom, SharedSecretPrefix)) {
		bad("%s: only a Secret can be copied, and only one whose name starts with %s", copyAnnotation, SharedSecretPrefix)
	}
	return faults
}

// take takes the content of a manifest, and which fields are in it.
func (t *Template) take(o unstructured.Unstructured) (faults []error) {
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", forAnnotation)
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", copyAnnotation)
	t.content = TemplateContent(o.Object)
	used := map[string]bool{}
	walk(t.content, func(s string) string {
		for _, m := range field.FindAllStringSubmatch(s, -1) {
			if m[1] != "" {
				used[m[1]] = true
			}
		}
		return s
	})
	t.uses = sortedKeys(used)
	for _, name := range t.uses {
		if _, ok := (values{}).fields()[name]; !ok {
			faults = append(faults, fmt.Errorf("$(%s) is not a field: there are $(NAMESPACE), $(SOURCE_KIND), $(SOURCE_ID), $(SOURCE_PATH), and $$(X) for the text $(X)", name))
		}
	}
	canonical, err := json.Marshal(t.content)
	if err != nil {
		faults = append(faults, err)
	}
	sum := sha256.Sum256(canonical)
	t.sum = hex.EncodeToString(sum[:])
	return faults
}

// TemplateContent returns what templates are about of an object: not its status, and of its metadata labels and annotations.
// It shares their maps.
func TemplateContent(object map[string]any) map[string]any {
	content, meta := maps.Clone(object), map[string]any{}
	delete(content, "status")
	all, _ := object["metadata"].(map[string]any)
	for _, name := range []string{"labels", "annotations"} {
		if m, _ := all[name].(map[string]any); len(m) > 0 {
			meta[name] = m
		}
	}
	content["metadata"] = meta
	return content
}

// field matches $(NAME), with the name, and $$(, which stands for the text "$(".
var field = regexp.MustCompile(`\$\(([A-Z_]+)\)|\$\$\(`)

// values fill the fields of one namespace.
type values struct {
	namespace, path string
	source          authz.SourceID
}

func (v values) fields() map[string]string {
	return map[string]string{
		"NAMESPACE": v.namespace, "SOURCE_KIND": string(v.source.Kind),
		"SOURCE_ID": strconv.FormatInt(v.source.ID, 10), "SOURCE_PATH": v.path,
	}
}

// walk copies a decoded document with f applied to every string in it that is not a key.
func walk(v any, f func(string) string) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = walk(e, f)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = walk(e, f)
		}
		return out
	case string:
		return f(x)
	}
	return v
}

// TemplateObject is what we own of an object that comes from a template.
type TemplateObject struct {
	Template *Template // nil of an object in the cluster
	Kind     TemplateKind
	Name     string
	Hash     string // names the template and what its fields were filled with
	// Verified is, of an object in the cluster that we wrote, the Hash of what we wrote.
	Verified string
	Content  map[string]any

	values values
	data   map[string]any // of a copied Secret
}

func (t *Template) object(v values, data map[string]any) *TemplateObject {
	h := sha256.New()
	h.Write([]byte(t.sum))
	fields := v.fields()
	for _, name := range t.uses {
		fmt.Fprintf(h, "\x00%s\x00%s", name, fields[name])
	}
	if t.CopyFrom != "" {
		canonical, _ := json.Marshal(data) //nolint:errchkjson // strings by name
		h.Write(canonical)
	}
	return &TemplateObject{Template: t, Kind: t.Kind, Name: t.Name, Hash: hex.EncodeToString(h.Sum(nil)[:12]), values: v, data: data}
}

// Render returns the object as it should be.
func (e *TemplateObject) Render() *unstructured.Unstructured {
	fields := e.values.fields()
	content := walk(e.Template.content, func(s string) string {
		return field.ReplaceAllStringFunc(s, func(m string) string {
			if m == "$$(" {
				return "$("
			}
			return fields[m[2:len(m)-1]]
		})
	})
	o := &unstructured.Unstructured{Object: content.(map[string]any)} //nolint:forcetypeassert // what walk makes of a map
	o.SetName(e.Name)
	o.SetNamespace(e.values.namespace)
	set := func(value string, path ...string) { _ = unstructured.SetNestedField(o.Object, value, path...) } // all on the path are maps
	set(kubename.ManagedBy, "metadata", "labels", kubename.LabelManagedBy)
	set("true", "metadata", "labels", kubename.LabelTemplate)
	set(e.Hash, "metadata", "annotations", kubename.AnnotationTemplate)
	if e.data != nil {
		o.Object["data"] = e.data
	}
	return o
}

// add appends the objects of one namespace. Of several templates of one object, the most particular one counts.
func (t *Templates) add(out []Object, v values, secrets map[string]map[string]any) []Object {
	if t == nil {
		return out
	}
	best := map[string]*Template{}
	for _, tpl := range t.List {
		r := tpl.rank(v.source)
		if old := best[tpl.KeyName()]; r > 0 && (old == nil || r > old.rank(v.source)) {
			best[tpl.KeyName()] = tpl
		}
	}
	for name, tpl := range best {
		if tpl.CopyFrom != "" && secrets[tpl.CopyFrom] == nil {
			continue // there is nothing to copy: a finding says so
		}
		out = append(out, Object{Key: Key{v.namespace, KindTemplate, name}, FromTemplate: tpl.object(v, secrets[tpl.CopyFrom])})
	}
	return out
}

// agrees reports whether everything that is wanted is in what the API server has, which adds defaults of its own and
// writes quantities in its own way.
func agrees(want, have any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok && have != nil {
			return false
		}
		if len(w) == 0 {
			return len(h) == 0
		}
		for k, v := range w {
			if !agrees(v, h[k]) {
				return false
			}
		}
		return true
	case []any:
		h, _ := have.([]any)
		return len(w) == len(h) && !slices.ContainsFunc(w, func(v any) bool {
			i := slices.IndexFunc(h, func(x any) bool { return agrees(v, x) })
			return i < 0
		})
	case nil:
		return have == nil
	}
	a, b := fmt.Sprint(want), fmt.Sprint(have)
	if a == b {
		return true
	}
	x, errA := resource.ParseQuantity(a)
	y, errB := resource.ParseQuantity(b)
	return errA == nil && errB == nil && x.Cmp(y) == 0
}

// madeBy reports whether an object in the cluster is what the template makes. What the API server made of a write of ours
// is; everything else is compared.
func (e *TemplateObject) madeBy(live *TemplateObject) bool {
	if live.Verified == e.Hash {
		return true
	}
	if live.Hash != e.Hash || live.Content == nil {
		return false
	}
	return agrees(TemplateContent(e.Render().Object), live.Content)
}

package setup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// object is YAML of which we know a part; the rest stays as it is, but for its comments and order.
type object = map[string]any

// Merge adds to a description of kube-apiserver what the folder's answers need: to its static pod, to kubeadm's
// ClusterConfiguration, or to the ConfigMap that holds this. Doing it again changes nothing. It refuses where kube-apiserver has
// another webhook or further authorizers, which only people can join with ours.
func Merge(folder string, in []byte) ([]byte, error) {
	a, err := answersOf(folder)
	if err != nil {
		return nil, err
	}
	return merge(a.APIServerDir, in)
}

// MergeFile is Merge for a file, which is replaced at once: kubelet never sees half of one. What it was is kept in the folder.
func MergeFile(folder, file string) error {
	in, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading what starts kube-apiserver: %w", err)
	}
	out, err := Merge(folder, in)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if again, err := yaml.YAMLToJSON(in); err == nil {
		if same, err := yaml.YAMLToJSON(out); err == nil && string(again) == string(same) {
			return nil
		}
	}
	kept := filepath.Join(folder, filepath.Base(file)+".before")
	if err := writeNew(kept, in, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	next := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".new") // kubelet leaves out names with a dot
	if err := writeNew(next, out, 0o600); err != nil {
		return err
	}
	if err := os.Rename(next, file); err != nil {
		return errors.Join(fmt.Errorf("replacing %s: %w", file, err), os.Remove(next))
	}
	return nil
}

func merge(dir string, in []byte) ([]byte, error) {
	var o object
	if err := yaml.Unmarshal(in, &o); err != nil {
		return nil, fmt.Errorf("reading what starts kube-apiserver: not valid YAML: %w", err)
	}
	var err error
	switch o["kind"] {
	case "Pod":
		err = mergePod(dir, o)
	case "ClusterConfiguration":
		err = mergeKubeadm(dir, o)
	case "ConfigMap":
		data, _ := o["data"].(object)
		text, ok := data["ClusterConfiguration"].(string)
		if !ok {
			return nil, errors.New("the ConfigMap holds no ClusterConfiguration: want kubeadm-config of kube-system")
		}
		merged, inner := merge(dir, []byte(text))
		data["ClusterConfiguration"], err = string(merged), inner
	default:
		return nil, fmt.Errorf("want kube-apiserver's Pod, kubeadm's ClusterConfiguration or the ConfigMap kubeadm-config, not the kind %q", fmt.Sprint(o["kind"]))
	}
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(o)
}

// join returns the flags with ours among them.
func join(dir string, have []argument) ([]argument, error) {
	var errs []error
	var out []argument
	ours := arguments(dir)
	for _, h := range have {
		i := slices.IndexFunc(ours, func(o argument) bool { return o.Name == h.Name })
		switch {
		case h.Name == "authorization-mode":
			for mode := range strings.SplitSeq(h.Value, ",") {
				if mode != "Node" && mode != "RBAC" {
					errs = append(errs, fmt.Errorf("kube-apiserver has the authorizer %s: add it to authorization.yaml, take it out of --authorization-mode, then try again", mode))
				}
			}
		case strings.HasPrefix(h.Name, "authorization-webhook-"):
			errs = append(errs, fmt.Errorf("kube-apiserver has --%s, which goes with no --authorization-config: add that webhook to authorization.yaml, take the flag out, then try again", h.Name))
		case i >= 0 && h != ours[i]:
			errs = append(errs, fmt.Errorf("kube-apiserver has --%s already: join what is there with ours by hand", h))
		case i < 0:
			out = append(out, h)
		}
	}
	return append(out, ours...), errors.Join(errs...)
}

func mergePod(dir string, o object) error {
	spec, _ := o["spec"].(object)
	containers, _ := spec["containers"].([]any)
	i := slices.IndexFunc(containers, func(c any) bool { m, ok := c.(object); return ok && m["name"] == "kube-apiserver" })
	if i < 0 {
		return errors.New("the Pod has no container kube-apiserver")
	}
	c := containers[i].(object)
	key := "command" // as kubeadm writes it; other tools have the flags in args
	if args, ok := c["args"].([]any); ok && len(args) > 0 {
		key = "args"
	}
	for _, k := range []string{"command", "args"} {
		if err := unreadable(dir, k, c[k], k == key); err != nil {
			return err
		}
	}
	list, _ := c[key].([]any)
	var have []argument
	var words []any
	for _, w := range list {
		text, _ := w.(string)
		flag, isFlag := strings.CutPrefix(text, "--")
		name, value, ok := strings.Cut(flag, "=")
		if !isFlag || !ok {
			words = append(words, w)
			continue
		}
		have = append(have, argument{name, value})
	}
	all, err := join(dir, have)
	if err != nil {
		return err
	}
	for _, a := range all {
		words = append(words, "--"+a.String())
	}
	v := volumeOf(dir)
	c[key] = words
	c["volumeMounts"] = withName(c["volumeMounts"], object{"name": v.Name, "mountPath": v.MountPath, "readOnly": true})
	spec["volumes"] = withName(spec["volumes"], object{"name": v.Name, "hostPath": object{"path": v.HostPath, "type": v.PathType}})
	return nil
}

// unreadable returns an error if a flag that ours replace or go against is in a form, or at a place, in which join does not see it:
// beside ours, kube-apiserver would refuse to start.
func unreadable(dir, key string, list any, merged bool) error {
	words, _ := list.([]any)
	for _, w := range words {
		text, _ := w.(string)
		name, _, whole := strings.Cut(strings.TrimLeft(text, "-"), "=")
		concerned := strings.HasPrefix(name, "authorization-") || slices.ContainsFunc(arguments(dir), func(a argument) bool { return a.Name == name })
		if strings.HasPrefix(text, "-") && concerned && (!merged || !whole || !strings.HasPrefix(text, "--")) {
			return fmt.Errorf("kube-apiserver has %s in its %s, where it can't be joined with ours: write it as --%s=VALUE beside the other flags, or take it out, then try again", text, key, name)
		}
	}
	return nil
}

// mergeKubeadm knows both forms of extraArgs: a list since v1beta4, a map before.
func mergeKubeadm(dir string, o object) error {
	server, _ := o["apiServer"].(object)
	if server == nil {
		server = object{}
		o["apiServer"] = server
	}
	version, _ := o["apiVersion"].(string)
	asMap := version == "kubeadm.k8s.io/v1beta3" || version == "kubeadm.k8s.io/v1beta2"
	var have []argument
	switch args := server["extraArgs"].(type) {
	case object:
		for name, value := range args {
			have = append(have, argument{name, fmt.Sprint(value)})
		}
	case []any:
		for _, x := range args {
			m, _ := x.(object)
			have = append(have, argument{fmt.Sprint(m["name"]), fmt.Sprint(m["value"])})
		}
	}
	all, err := join(dir, have)
	if err != nil {
		return err
	}
	byName, list := object{}, []any{}
	for _, a := range all {
		byName[a.Name] = a.Value
		list = append(list, object{"name": a.Name, "value": a.Value})
	}
	if server["extraArgs"] = any(list); asMap {
		server["extraArgs"] = byName
	}
	v := volumeOf(dir)
	server["extraVolumes"] = withName(server["extraVolumes"], object{
		"name": v.Name, "hostPath": v.HostPath, "mountPath": v.MountPath, "readOnly": v.ReadOnly, "pathType": v.PathType,
	})
	return nil
}

// withName returns a list of named things in which ours stands once.
func withName(list any, ours object) []any {
	have, _ := list.([]any)
	have = slices.DeleteFunc(slices.Clone(have), func(x any) bool { m, ok := x.(object); return ok && m["name"] == ours["name"] })
	return append(have, ours)
}

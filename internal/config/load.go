package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxSize bounds the file: a configuration is a few kilobytes.
const maxSize = 1 << 20

// Load reads, checks and completes the file. The error holds every fault that was found, one per line. What could be
// taken of a faulty file is returned beside the error, so that its faults elsewhere can be reported at once too; nil if the
// file can't be read.
func Load(path string) (*Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("reading configuration %s: larger than 1 MiB, is this the right file?", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return c, fmt.Errorf("configuration %s:\n  %s", path, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return c, nil
}

// Parse is Load for bytes. Relative paths in the file are left as they are.
func Parse(data []byte) (*Config, error) {
	c := new(Config)
	var twice error
	asJSON, err := yaml.YAMLToJSONStrict(data) // it refuses keys that appear twice
	if err != nil {
		twice = errors.New(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n  "), "\n  ", "\n"))
		if asJSON, err = yaml.YAMLToJSON(data); err != nil {
			return c, fmt.Errorf("not valid YAML: %s", whereYAML(err, data))
		}
	}
	var tree any
	j := json.NewDecoder(bytes.NewReader(asJSON))
	j.UseNumber() // else a large id changes
	if err := j.Decode(&tree); err != nil {
		return c, fmt.Errorf("not valid YAML: %w", err)
	}
	if top, ok := tree.(map[string]any); ok {
		if v, ok := top["apiVersion"].(string); ok && v != APIVersion && strings.HasPrefix(v, apiGroup) { // other faults would only say the same
			return c, errors.Join(twice, fmt.Errorf("apiVersion: %q is of another version of gl-k8s-integrator, most likely a later one: this one reads %q alone, see docs/upgrade.md", v, APIVersion))
		}
	}
	var d decoder
	d.decode("", tree, reflect.ValueOf(c).Elem())
	if !(&faults{unread: d.unread}).known("rbacsync.templates") {
		c.RBACSync.Templates = Templates{} // a folder is not looked at by half of its rules
	}
	setDefaults(c)
	return c, errors.Join(twice, errors.Join(d.faults...), errors.Join(validate(c, d.unread)...))
}

// lineBefore are the errors of the YAML parser, which counts lines from 0. Those of its scanner are right.
var lineBefore = regexp.MustCompile(`^line (\d+): did not find expected (?:key|node content|'-' indicator|',' or|<)`)

// whereYAML returns the text of a YAML error with the line where the fault was noticed.
func whereYAML(err error, data []byte) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	m := lineBefore.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return text
	}
	last := bytes.Count(bytes.TrimRight(data, "\n"), []byte("\n")) + 1 // the end of the file is noticed behind it
	return strings.Replace(text, m[1], strconv.Itoa(min(n+1, last)), 1)
}

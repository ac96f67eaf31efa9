package config

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxSize bounds the file: a configuration is a few kilobytes.
const maxSize = 1 << 20

// Load reads, checks and completes the file. The error holds every fault that was found, one per line.
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
		return nil, fmt.Errorf("configuration %s:\n  %s", path, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return c, nil
}

// Parse is Load for bytes. Relative paths in the file are left as they are.
func Parse(data []byte) (*Config, error) {
	// Strict conversion first: it refuses keys that appear twice. Then the case-exact decoder: encoding/json and
	// yaml.UnmarshalStrict would take "Web" for "web" and silently drop one of the two.
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	c := new(Config)
	strict, err := kjson.UnmarshalStrict(asJSON, c)
	if err != nil {
		err = fmt.Errorf("wrong type of value: %s", typeError.ReplaceAllString(err.Error(), "$2: want $3, not $1"))
	}
	setDefaults(c)
	return c, errors.Join(err, errors.Join(strict...), errors.Join(validate(c)...))
}

// typeError turns the decoder's sentence about Go types into one about the file.
var typeError = regexp.MustCompile(`^json: cannot unmarshal (\S+) into Go struct field \w+\.(\S+) of type (?:\w+\.)?(\S+)$`)

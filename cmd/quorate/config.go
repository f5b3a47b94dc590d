package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// fileConfig is a YAML file whose keys are the names of the server's flags:
//
//	name: n1
//	data: /var/lib/quorate
//	join: [10.0.0.2:6222, 10.0.0.3:6222]
//
// What is said nearer wins: a flag over the environment, the environment over the file, the file over the default.
type fileConfig map[string]any

var _ kong.Resolver = fileConfig(nil)

func loadYAML(r io.Reader) (kong.Resolver, error) {
	var c map[string]any
	documents := yaml.NewDecoder(r)
	err := documents.Decode(&c)
	if err != nil && !errors.Is(err, io.EOF) { // an empty file says nothing
		return nil, fmt.Errorf("the configuration file is not YAML with a key a line: %w", err)
	}
	if err == nil && !errors.Is(documents.Decode(new(any)), io.EOF) {
		return nil, errors.New("the configuration file has a second document, behind ---; put all keys into one")
	}
	return fileConfig(c), nil
}

// emptyIsUnset has a variable that is set and empty say nothing, as compose files and scripts leave them, but where a flag's tag says that empty is a value.
func emptyIsUnset(k *kong.Kong) error {
	return kong.Visit(k.Model, func(node kong.Visitable, next kong.Next) error {
		if f, ok := node.(*kong.Flag); ok && !f.Tag.Has("emptyisvalue") {
			f.Envs = slices.DeleteFunc(f.Envs, func(name string) bool { v, set := os.LookupEnv(name); return set && v == "" })
			f.Tag.Envs = f.Envs
		}
		return next(nil)
	})
}

// Validate refuses keys that no flag has: a misspelt one would otherwise pass unseen.
func (c fileConfig) Validate(app *kong.Application) error {
	known := map[string]bool{}
	var collect func(n *kong.Node)
	collect = func(n *kong.Node) {
		for _, f := range n.Flags {
			known[f.Name] = true
		}
		for _, child := range n.Children {
			collect(child)
		}
	}
	collect(app.Node)
	for key := range c {
		if !known[strings.ReplaceAll(key, "_", "-")] {
			return fmt.Errorf("the configuration file has the key %q, which no flag has; see quorate server --help", key)
		}
	}
	return nil
}

// Resolve returns what the file says of the flag.
func (c fileConfig) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if slices.ContainsFunc(flag.Envs, func(name string) bool { _, set := os.LookupEnv(name); return set }) {
		return nil, nil
	}
	for key, value := range c {
		if strings.ReplaceAll(key, "_", "-") == flag.Name {
			v, err := plainValue(value)
			if items, list := v.([]any); list && !flag.IsSlice() { // several in one text, as the flag takes them
				texts := make([]string, len(items))
				for i := range items {
					texts[i] = fmt.Sprint(items[i])
				}
				v = strings.Join(texts, ",")
			}
			return v, err
		}
	}
	return nil, nil
}

// plainValue turns a YAML value into the text, or the list of texts, that the flag would be given.
func plainValue(value any) (any, error) {
	switch v := value.(type) {
	case []any:
		items := make([]any, len(v))
		for i, item := range v {
			items[i] = fmt.Sprint(item)
		}
		return items, nil
	case map[string]any:
		return nil, errors.New("needs a value or a list, not a section")
	case nil:
		return nil, nil
	}
	return fmt.Sprint(value), nil
}

// Command collector is an OpenTelemetry collector for the end-to-end tests: the OTLP receiver, and an exporter that
// writes each batch of spans to a file, one line of OTLP's JSON each. Built by tests/run, started and configured by
// tests/src/collector.rs.
package main

import (
	"context"
	"log"
	"os"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

func main() {
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "collector", Description: "Hookline's tests", Version: "0.155.0"},
		Factories: factories,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			ProviderFactories: []confmap.ProviderFactory{fileprovider.NewFactory()},
			DefaultScheme:     "file",
		}},
	}
	if err := otelcol.NewCommand(settings).Execute(); err != nil {
		log.Fatal(err)
	}
}

func factories() (otelcol.Factories, error) {
	receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	exporters, err := otelcol.MakeFactoryMap[exporter.Factory](lines())
	return otelcol.Factories{Receivers: receivers, Exporters: exporters, Telemetry: otelconftelemetry.NewFactory()}, err
}

// linesConfig is the configuration of the exporter `lines`.
type linesConfig struct {
	Path string `mapstructure:"path"`
}

// lines appends spans to a file. Each batch is one write, so that a reader sees whole lines.
func lines() exporter.Factory {
	create := func(ctx context.Context, set exporter.Settings, config component.Config) (exporter.Traces, error) {
		file, err := os.OpenFile(config.(*linesConfig).Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		marshaler := ptrace.JSONMarshaler{}
		push := func(_ context.Context, traces ptrace.Traces) error {
			line, err := marshaler.MarshalTraces(traces)
			if err == nil {
				_, err = file.Write(append(line, '\n'))
			}
			return err
		}
		shutdown := exporterhelper.WithShutdown(func(context.Context) error { return file.Close() })
		return exporterhelper.NewTraces(ctx, set, config, push, shutdown)
	}
	return exporter.NewFactory(
		component.MustNewType("lines"),
		func() component.Config { return &linesConfig{} },
		exporter.WithTraces(create, component.StabilityLevelDevelopment),
	)
}

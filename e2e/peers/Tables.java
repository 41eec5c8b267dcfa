import org.apache.hadoop.hbase.HBaseConfiguration;
import org.apache.hadoop.hbase.TableName;
import org.apache.hadoop.hbase.client.ColumnFamilyDescriptorBuilder;
import org.apache.hadoop.hbase.client.ConnectionFactory;
import org.apache.hadoop.hbase.client.TableDescriptorBuilder;

/** Tables PREFIX: makes OpenTSDB's four tables, which it does not make itself. */
public final class Tables {
    private static final String[][] TABLES = {{"tsdb", "t"}, {"uid", "id", "name"}, {"tree", "t"}, {"meta", "name"}};

    public static void main(String[] args) throws Exception {
        try (var hbase = ConnectionFactory.createConnection(HBaseConfiguration.create()); var admin = hbase.getAdmin()) {
            for (var t : TABLES) {
                var table = TableDescriptorBuilder.newBuilder(TableName.valueOf(args[0] + t[0]));
                for (int i = 1; i < t.length; i++) table.setColumnFamily(ColumnFamilyDescriptorBuilder.of(t[i]));
                admin.createTable(table.build());
            }
        }
    }
}
